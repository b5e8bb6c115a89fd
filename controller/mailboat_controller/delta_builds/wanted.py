"""What is worth building: from which files that devices have, to which they are to get. Pure.

The bases are the files of the most deployed releases, and of the predecessor: what devices run
decides, not the order of version numbers. Each patch leads straight to the target, never over
another one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mailboat_controller.store.deltas import Key
from mailboat_controller.store.deployed import Deployed
from mailboat_schemas.documents.release import File, ReleaseDocument

# Of one class and model. A fleet that is up to date runs one or two releases.
BASES_DEFAULT = 3
BASES_MAX = 16
# Below that a patch with its own request saves nothing.
TARGET_BYTES_MIN = 4096
# A decoder never takes more (`deltas.zstd_patch`): classes that give more are told the same.
DECODER_BYTES_MAX = 256 << 20
WANTED_MAX = 10_000  # rows of one fleet; what serves fewest devices is left out


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFacts:
    """One class: what a decoder may take there, its devices, and what they run."""

    hardware_class: str
    memory_budget_bytes: int
    devices: int
    deployed: Sequence[Deployed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A release that devices of a class are told to run, or some of them."""

    hardware_class: str
    release: str  # digest of its document
    predecessor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Purpose:
    """For whom a patch is. Without a base ``base_version`` is empty."""

    hardware_class: str
    model: str
    version: str
    base_version: str
    path: str
    devices: int

    def to_json(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One row of the queue. Lengths in bytes."""

    key: Key
    target_length: int
    base_length: int
    purposes: tuple[Purpose, ...]

    @property
    def devices(self) -> int:
        return sum(purpose.devices for purpose in self.purposes)

    def with_more(self, purposes: tuple[Purpose, ...]) -> "Wanted":
        return replace(self, purposes=tuple(dict.fromkeys((*self.purposes, *purposes))))


def wanted(
    targets: Iterable[Target],
    classes: Mapping[str, ClassFacts],
    documents: Mapping[str, ReleaseDocument],
    *,
    bases_max: int = BASES_DEFAULT,
    wanted_max: int = WANTED_MAX,
) -> dict[Key, Wanted]:
    """What to build for these targets; ``documents`` by digest, those missing are passed over."""
    found: dict[Key, Wanted] = {}
    for target in targets:
        facts = classes.get(target.hardware_class)
        if facts is None or target.release not in documents:
            continue
        bases = bases_of(target, facts.deployed, documents, bases_max)
        for each in of_release(target, facts, documents, bases):
            held = found.get(each.key)
            found[each.key] = each if held is None else held.with_more(each.purposes)
    most_first = sorted(found.values(), key=lambda each: (-each.devices, each.key))
    return {each.key: each for each in most_first[:wanted_max]}


def bases_of(
    target: Target,
    deployed: Sequence[Deployed],
    documents: Mapping[str, ReleaseDocument],
    bases_max: int,
) -> dict[str, int]:
    """Digests of the releases to start from, and the devices that run each."""
    model = documents[target.release].model
    running = [
        each
        for each in deployed
        if each.model == model and each.digest != target.release and each.digest in documents
    ]
    running.sort(key=lambda each: (-each.devices, -each.accepted_at.timestamp(), each.digest))
    bases = {each.digest: each.devices for each in running[:bases_max]}
    predecessor = target.predecessor
    if bases_max and predecessor not in (None, target.release) and predecessor in documents:
        bases.setdefault(
            predecessor, next((each.devices for each in running if each.digest == predecessor), 0)
        )
    return bases


def memory_of(memory_budget_bytes: int) -> int:
    """What a key says of a class's budget."""
    return min(memory_budget_bytes, DECODER_BYTES_MAX)


def counterpart(file: File, base: Iterable[File]) -> File | None:
    """The file of a base release that takes the same part: of its role, and of its name if there
    are several."""
    same = [each for each in base if each.role is file.role and each.sealed is None]
    named = next((each for each in same if each.path == file.path), None)
    return named or (same[0] if len(same) == 1 else None)


def of_release(
    target: Target,
    facts: ClassFacts,
    documents: Mapping[str, ReleaseDocument],
    bases: Mapping[str, int],
    *,
    bytes_min: int = TARGET_BYTES_MIN,
) -> Iterator[Wanted]:
    """Each file of a release, without a base and from each of ``bases`` (digest to devices)."""
    document = documents[target.release]
    memory = memory_of(facts.memory_budget_bytes)
    up_to_date = sum(each.devices for each in facts.deployed if each.digest == target.release)
    for file in _plain(document, target):
        if file.length < bytes_min:
            continue
        rest = max(0, facts.devices - up_to_date)
        yield _from(None, file, memory, _purpose(target, document, "", file, rest))
        for digest, devices in bases.items():
            files = _plain(documents[digest], target)
            base = counterpart(file, files)
            # It is there already, under whatever name; or there is nothing to start from.
            if any(each.sha256 == file.sha256 for each in files) or base is None or not base.length:
                continue
            version = documents[digest].version
            yield _from(base, file, memory, _purpose(target, document, version, file, devices))


def _from(base: File | None, file: File, memory_bytes_max: int, purpose: Purpose) -> Wanted:
    return Wanted(
        key=Key(file.sha256, "" if base is None else base.sha256, memory_bytes_max),
        target_length=file.length,
        base_length=0 if base is None else base.length,
        purposes=(purpose,),
    )


def _purpose(
    target: Target, document: ReleaseDocument, base_version: str, file: File, devices: int
) -> Purpose:
    return Purpose(
        hardware_class=target.hardware_class,
        model=document.model,
        version=document.version,
        base_version=base_version,
        path=file.path,
        devices=devices,
    )


def _plain(document: ReleaseDocument, target: Target) -> tuple[File, ...]:
    """Files of the class's variant that are not encrypted: the others never make a patch."""
    variant = document.variant_for(target.hardware_class)
    return () if variant is None else tuple(f for f in variant.files if f.sealed is None)
