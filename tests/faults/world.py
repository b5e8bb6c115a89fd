"""Signed bundles and the files behind them, for every scene: made once by the real ceremony.

A world is plain bytes, so that other processes can read it from a file: ``MAILBOAT_FAULTS_WORLD``
names the directory that holds it. Its metadata expires like any other, so it is made anew per run.
"""

import hashlib
import os
import pickle
import random
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import Metadata, Root

from mailboat_controller.authority import roles
from mailboat_controller.authority.keys import create_key, load_key
from mailboat_schemas.desired import Assignment, Offer, OfferWave, ReleaseRef
from model_fleet import ModelFleet
from patched_fleet import offer_patch
from trust_fleet import MODEL

WORLD_VARIABLE = "MAILBOAT_FAULTS_WORLD"
MODEL_BYTES = 20_000  # three writes of a download; a pipe takes it whole
# What a model's first line makes of its trial and its soak, where no worker process is started.
GOOD, WRONG, FLAKY, DEADLY = (b"good", b"wrong", b"flaky", b"deadly")


@dataclass(frozen=True, slots=True)
class World:
    """``bundles`` by story, in the order in which a controller would publish them."""

    factory_root: bytes
    artifacts: Mapping[str, bytes]
    bundles: Mapping[str, tuple[bytes, ...]]
    imported: frozenset[str]  # files of 2.0.0, to be brought by hand


def model_bytes(temper: bytes, version: str) -> bytes:
    """A model file: its temper, and noise that its successors share, so that a delta pays."""
    noise = random.Random(1).randbytes(MODEL_BYTES)
    return temper + b"\n" + version.encode() + b"\n" + noise


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def build(directory: Path) -> World:
    fleet = ModelFleet(directory / "ceremony")
    first = _release(fleet, "1.0.0")
    start = fleet.current(first)
    at_first = fleet.copied()
    second = _release(fleet, "2.0.0")
    following = fleet.current(second)
    at_second = fleet.copied()
    artifacts: dict[str, bytes] = {}
    bundles: dict[str, tuple[bytes, ...]] = {"first": (start,), "second": (start, following)}

    for story, temper in (("wrong", WRONG), ("flaky", FLAKY), ("deadly", DEADLY)):
        line = at_first.copied()
        bad = _release(line, "3.0.0", temper)
        bundles[story] = (start, line.offered(bad, first))
        artifacts |= line.artifacts

    line = at_first.copied()
    offer_patch(line, model_bytes(GOOD, "1.0.0"), model_bytes(GOOD, "2.0.0"))
    patched = _release(line, "2.0.0")
    bundles["patched"] = (start, line.current(patched))
    artifacts |= line.artifacts

    line = at_second.copied()
    _rotate(line, "timestamp")
    line.withdraw("2.0.0")
    bundles["rotated"] = (start, following, line.current(first))

    line = at_second.copied()
    bad = _release(line, "3.0.0", WRONG)
    offered = line.bundle(_offer(bad, second, kept=(first,)))
    line.withdraw("2.0.0")
    bundles["refuge"] = (start, following, offered, line.bundle(_offer(bad, None, kept=(first,))))
    artifacts |= line.artifacts | fleet.artifacts
    imported = frozenset(fleet.artifacts) - frozenset(at_first.artifacts)
    return World(fleet.factory_root, artifacts, bundles, imported)


def _release(fleet: ModelFleet, version: str, temper: bytes = GOOD) -> ReleaseRef:
    model = model_bytes(temper, version)
    return fleet.model_release(version, model=model, samples=b"golden " + version.encode())


def _offer(
    release: ReleaseRef, current: ReleaseRef | None, *, kept: tuple[ReleaseRef, ...]
) -> Assignment:
    waves = (OfferWave(upto="f" * 16, roster=100),)
    offer = Offer(release=release, rollout="all", waves=waves)
    return Assignment(model=MODEL, current=current, offer=offer, kept=kept)


def _rotate(fleet: ModelFleet, role: str) -> None:
    """Root version + 1, with a new key for an online role, signed by the offline root key."""
    root: Metadata[Root] = Metadata[Root].from_bytes(fleet.roots[-1])
    old, new = getattr(fleet.online, role), create_key(fleet.directory / "rotated.pem", name=role)
    root.signed.revoke_key(old.public_key.keyid, role)
    root.signed.add_key(new.public_key, role)
    root.signed.version += 1
    fleet.roots.append(roles.sign(root.signed, [load_key(fleet.directory / "offline/root.pem")]))
    keys = {name: getattr(fleet.online, name) for name in ("snapshot", "timestamp", "director")}
    fleet.online = type(fleet.online)(**{**keys, role: new})
    fleet.resign()


_current: World | None = None


def current() -> World:
    """The world of this process: of the directory that the environment names, else a new one."""
    global _current  # noqa: PLW0603 - made once, and forked along
    if _current is None:
        named = os.environ.get(WORLD_VARIABLE)
        if named is None:
            with tempfile.TemporaryDirectory(prefix="mailboat-world-") as directory:
                _current = build(Path(directory))
        else:
            _current = load(Path(named))
    return _current


def load(directory: Path) -> World:
    """Raises OSError: nobody has saved one there."""
    world: World = pickle.loads((directory / "world").read_bytes())  # noqa: S301 - our own
    return world


def save(world: World, directory: Path) -> None:
    (directory / "world").write_bytes(pickle.dumps(world))
