"""The states in which a power cut may leave a directory: after every operation of a recording, with
everything, nothing, all but one, only one, torn writes, and seeded random choices of what was
pending. States that look alike on the disk, with the same things told, are one state.
"""

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tests.faults.power_disk import (
    Disk,
    Metadata,
    Pending,
    Survivors,
    Tear,
    applied,
    apply_names,
)
from tests.faults.power_operations import ROOT, Barrier, Names, Recording, Told, Truncate, Write

RANDOM_CHOICES = 24  # after each operation with more than two things pending
# Of a long list of pending changes only the newest are left out, or kept, one by one; the random
# choices are of all of them.
SINGLED_OUT_MAX = 24
_TEARS = (Tear.HALF, Tear.SECTOR, Tear.TAIL, Tear.ZEROS)


@dataclass(frozen=True, slots=True)
class State:
    """``files`` by path below the root; paths with the same inode are one file. ``told`` is what
    the outside had heard. ``because`` says which cut this is, for the report."""

    directories: tuple[str, ...]
    files: tuple[tuple[str, int], ...]
    contents: Mapping[int, bytes]
    links: Mapping[int, bytes]  # those of the files that are symbolic links
    told: bytes
    because: str


@dataclass(slots=True)
class States:
    """Iterate over the distinct ones; ``generated`` counts all that were looked at."""

    recording: Recording
    told_before: bytes = b""
    seed: int = 1
    random_choices: int = RANDOM_CHOICES
    generated: int = 0
    distinct: int = 0
    _seen: set[bytes] = field(default_factory=set)
    _contents: dict[object, tuple[bytes, bytes]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[State]:
        for metadata in Metadata:
            self._contents.clear()
            disk = Disk.before(self.recording, metadata, self.told_before)
            yield from self._after(disk, "before the first operation", told=True)
            for operation in self.recording.operations:
                disk.take(operation)
                if isinstance(operation, Barrier):
                    continue  # it only takes away what was possible before it
                name = type(operation).__name__.lower()
                when = f"{metadata}, after {name} {disk.position}"
                yield from self._after(disk, when, told=isinstance(operation, Told))

    def _after(self, disk: Disk, when: str, *, told: bool) -> Iterator[State]:
        rng = random.Random(self.seed * 1_000_003 + disk.position)
        looked_at: set[frozenset[tuple[int, Tear]]] = set()
        for how, wanted in self._choices(disk, rng, told=told):
            survivors = disk.legal(wanted)
            self.generated += 1
            key = frozenset(survivors.items())
            if key in looked_at:
                continue
            looked_at.add(key)
            state = self._state(disk, survivors, f"{when}: {how}")
            if state is not None:
                yield state

    # --- what comes through ----------------------------------------------------------------------

    def _choices(
        self, disk: Disk, rng: random.Random, *, told: bool
    ) -> Iterator[tuple[str, Survivors]]:
        """After something was told, everything anew. Otherwise what is without the newest change
        was possible before it, and was looked at then."""
        pending = disk.pending
        whole = {p.position: Tear.WHOLE for p in pending}
        names = {p.position: Tear.WHOLE for p in pending if isinstance(p.change, Names)}
        yield "everything", whole
        if told:
            yield "nothing pending", {}
        if 0 < len(names) < len(whole):
            yield "names without content", names
            yield "content without names", {p: t for p, t in whole.items() if p not in names}
        for one in pending[-SINGLED_OUT_MAX:]:
            position = one.position
            yield f"all but {position}", {p: t for p, t in whole.items() if p != position}
            ways = list(tears(one.change)) if isinstance(one.change, Write) else []
            for tear in ways:
                yield f"{position} torn ({tear})", {**whole, position: tear}
            if not told and one is not pending[-1]:
                continue
            yield f"only {position}", {position: Tear.WHOLE}
            if isinstance(one.change, Names):
                yield f"names up to {position}", {p: t for p, t in names.items() if p <= position}
            for tear in ways:
                yield f"only {position} torn ({tear})", {**names, position: tear}
        if len(pending) > 2:
            for number in range(self.random_choices):
                yield f"random choice {number}", _random_choice(pending, rng)

    # --- what is there then ----------------------------------------------------------------------

    def _state(self, disk: Disk, survivors: Survivors, because: str) -> State | None:
        """None for one that was there before."""
        directories = disk.directories
        changes: dict[int, list[tuple[int, Write | Truncate, Tear]]] = {}
        copied: set[int] = set()
        for pending in disk.pending:
            tear = survivors.get(pending.position)
            if tear is None:
                continue
            change = pending.change
            if isinstance(change, Names):
                if change.directory not in copied:
                    held = dict(directories[change.directory])
                    directories = {**directories, change.directory: held}
                    copied.add(change.directory)
                apply_names(directories[change.directory], change)
            else:
                changes.setdefault(change.inode, []).append((pending.position, change, tear))
        found = _walked(directories)
        contents: dict[int, bytes] = {}
        digest = hashlib.blake2b(disk.told, digest_size=16)
        for path, inode in found:
            digest.update(f"\0{path}\0".encode())
            if inode not in directories:
                content, hashed = self._content(disk, inode, changes.get(inode, []))
                contents[inode] = content
                digest.update(hashed)
        if digest.digest() in self._seen:
            return None
        self._seen.add(digest.digest())
        self.distinct += 1
        return State(
            tuple(path for path, inode in found if inode in directories),
            tuple((path, inode) for path, inode in found if inode not in directories),
            contents,
            self.recording.links,
            disk.told,
            because,
        )

    def _content(
        self, disk: Disk, inode: int, changes: list[tuple[int, Write | Truncate, Tear]]
    ) -> tuple[bytes, bytes]:
        key = (inode, disk.versions.get(inode), *((p, tear) for p, _, tear in changes))
        found = self._contents.get(key)
        if found is None:
            content = applied(disk.files[inode], [(change, tear) for _, change, tear in changes])
            found = content, hashlib.blake2b(content, digest_size=16).digest()
            self._contents[key] = found
        return found


def tears(write: Write) -> Iterator[Tear]:
    """The ways to tear it that differ from each other."""
    if len(write.content) < 2:
        return
    for tear in _TEARS:
        beyond_sector = write.offset_bytes % 512 + len(write.content) > 512
        if tear is not Tear.SECTOR or beyond_sector:
            yield tear


def _random_choice(pending: list[Pending], rng: random.Random) -> dict[int, Tear]:
    chosen = {}
    for one in pending:
        if rng.random() < 0.5:
            torn = isinstance(one.change, Write) and rng.random() < 0.2
            chosen[one.position] = rng.choice(_TEARS) if torn else Tear.WHOLE
    return chosen


def _walked(directories: Mapping[int, Mapping[str, int]]) -> list[tuple[str, int]]:
    """Every path that leads somewhere from the root, parents before what is in them."""
    found: list[tuple[str, int]] = []
    waiting = [("", ROOT)]
    while waiting:
        prefix, directory = waiting.pop()
        for name, inode in sorted(directories[directory].items()):
            path = prefix + name
            found.append((path, inode))
            if inode in directories:
                waiting.append((f"{path}/", inode))
    return found


def final_state(recording: Recording) -> State:
    """What must be there when nothing was lost: the directory as the program left it."""
    disk = Disk.before(recording, Metadata.WEAK)
    for operation in recording.operations:
        disk.take(operation)
    states = States(recording)
    state = states._state(disk, {p.position: Tear.WHOLE for p in disk.pending}, "the end")
    assert state is not None
    return state
