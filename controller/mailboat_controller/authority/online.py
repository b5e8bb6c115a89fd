"""The controller's online keys: snapshot, timestamp, director. They assign, never approve.

```text
keys/snapshot.pem  timestamp.pem  director.pem     what signs now
keys/next/…                                        what shall sign once the metadata names it
```
Which key signs is for the verified metadata to say: a key that it does not name is never used.
"""

import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

from mailboat_controller.authority.keys import create_key, load_key, open_signer
from mailboat_controller.authority.public_keys import SUFFIX, write_public_key
from mailboat_controller.authority.roles import (
    SNAPSHOT_VALID,
    expiry,
    make_timestamp,
    sign,
)
from mailboat_controller.durable_file import fsync_directory
from mailboat_schemas.codec import encode
from mailboat_schemas.desired import DesiredState
from mailboat_schemas.device_orders import DeviceDesired
from mailboat_schemas.envelope import (
    Envelope,
    EnvelopeSignature,
    PayloadType,
    pre_authentication_encoding,
)
from mailboat_schemas.errors import ConfigurationInvalid, Conflict
from mailboat_schemas.reports import Ack

ONLINE_ROLES = ("snapshot", "timestamp", "director")
NEXT = "next"


class OnlineKeyNotNamed(ConfigurationInvalid):
    """Every signature of this key would be refused by every device, without a word to us."""

    code = "E-ONLINE-KEY"


@dataclass(frozen=True, slots=True)
class OnlineKeys:
    """Three signers, one a role, and the directory they and their successors are in."""

    snapshot: Signer
    timestamp: Signer
    director: Signer
    directory: Path | None = None
    spare: tuple[tuple[str, Signer], ...] = ()  # role and key: successors, and who gave way to one

    @classmethod
    def load(cls, directory: Path, sources: Mapping[str, str] | None = None) -> Self:
        """Read ``snapshot.pem``, ``timestamp.pem`` and ``director.pem``.

        Args:
            sources: by role, another place for its key, as `keys.open_signer` takes it; several
                with spaces between, of which the first that the metadata names signs.

        Raises:
            ConfigurationInvalid: one is missing or cannot be opened.
            HardwareKeyUnusable: likewise, of one on a token.
        """
        signers: dict[str, list[Signer]] = {}
        for role in ONLINE_ROLES:
            named = (sources or {}).get(role, "").split()
            signers[role] = [open_signer(source) for source in named]
            if not named:
                signers[role].append(load_key(directory / f"{role}.pem"))
        first = {role: found[0] for role, found in signers.items()}
        spare = tuple((role, each) for role, found in signers.items() for each in found[1:])
        return cls(**first, directory=directory, spare=spare)

    def named(self, wanted: Mapping[str, Collection[str]]) -> Self:
        """The same, with the successor of every key that is not named any more.

        Args:
            wanted: by role, the ids of the keys that may sign it.

        Raises:
            OnlineKeyNotNamed: a role names neither the key we have nor its successor.
        """
        changed: dict[str, Any] = {}
        for role in ONLINE_ROLES:
            if getattr(self, role).public_key.keyid not in wanted[role]:
                changed[role] = self._successor(role, wanted[role])
        if not changed:
            return self
        # A change of roles that is refused after all brings the old key back.
        spare = {key.public_key.keyid: (role, key) for role, key in self.spare}
        spare |= {(old := getattr(self, role)).public_key.keyid: (role, old) for role in changed}
        return replace(self, **changed, spare=tuple(spare.values()))

    def _successor(self, role: str, keyids: Collection[str]) -> Signer:
        for name, signer in self.spare:
            if name == role and signer.public_key.keyid in keyids:
                return signer
        places = () if self.directory is None else (self.directory, self.directory / NEXT)
        for path in (place / f"{role}.pem" for place in places):
            if path.is_file() and (signer := load_key(path)).public_key.keyid in keyids:
                return signer
        raise OnlineKeyNotNamed(
            f"The key {role}.pem is not the one that the trust metadata names for {role}.",
            next_step="put the keys and the trust files of one ceremony into the data directory; "
            "for new keys run `mailboat trust online-keys`, and name those in the new metadata.",
        )

    @property
    def director_keyid(self) -> str:
        keyid: str = self.director.public_key.keyid
        return keyid

    def sign_snapshot(
        self, previous: bytes, versions: Mapping[str, int], *, now: datetime, above: int = 0
    ) -> bytes:
        """The following snapshot with these role versions. Entries are never removed, and a
        version never goes down: clients refuse both as a rollback.

        Args:
            above: the highest version that a device may have seen, where that is not ours.
        """
        snapshot = Metadata[Snapshot].from_bytes(previous).signed
        for role, version in versions.items():
            held = snapshot.meta.get(f"{role}.json")
            if held is not None and held.version > version:
                raise ValueError(f"{role} would go from version {held.version} to {version}")
            snapshot.meta[f"{role}.json"] = MetaFile(version=version)
        snapshot.version = max(snapshot.version, above) + 1
        snapshot.expires = expiry(now, SNAPSHOT_VALID)
        return sign(snapshot, [self.snapshot])

    def sign_timestamp(
        self, previous: bytes, snapshot: bytes, *, now: datetime, above: int = 0
    ) -> bytes:
        """The following timestamp, pinning this snapshot; ``above`` as of `sign_snapshot`."""
        version = max(Metadata[Timestamp].from_bytes(previous).signed.version, above) + 1
        return sign(make_timestamp(snapshot, version, now), [self.timestamp])

    def sign_desired(self, desired: DesiredState) -> bytes:
        """An encoded `Envelope` of the desired state, signed by the director key."""
        return seal(self.director, PayloadType.DESIRED_STATE, encode(desired))

    def sign_ack(self, ack: Ack) -> bytes:
        """Likewise of an acknowledgement: a device forgets its events on it."""
        return seal(self.director, PayloadType.ACK, encode(ack))

    def sign_order(self, order: DeviceDesired) -> bytes:
        """Likewise of what one device alone is asked."""
        return seal(self.director, PayloadType.DEVICE_DESIRED, encode(order))


def seal(director: Signer, kind: str, payload: bytes) -> bytes:
    """An encoded `Envelope`, signed."""
    signature = director.sign(pre_authentication_encoding(kind, payload))
    sealed = EnvelopeSignature(keyid=signature.keyid, sig=bytes.fromhex(signature.signature))
    return encode(Envelope(payload_type=kind, payload=payload, signatures=(sealed,)))


def make_next(directory: Path) -> Path:
    """New online keys beside those in use, and their public keys for the offline signers.

    All or none: what a crash left half made was never told to anybody, and is made anew.

    Returns:
        The directory ``next`` with ``<role>.pem`` and ``<role>.pub``.

    Raises:
        Conflict: there are some already.
    """
    place, beside = directory / NEXT, directory / f"{NEXT}.new"
    if any(place.glob("*.pem")):
        raise Conflict(
            f"There are new keys in {place} already.",
            next_step="name those with `mailboat trust rotate`; or delete them and run this again.",
        )
    shutil.rmtree(beside, ignore_errors=True)
    for role in ONLINE_ROLES:
        signer = create_key(beside / f"{role}.pem", name=role)
        write_public_key(beside / f"{role}{SUFFIX}", signer.public_key)
    for left in place.glob(f"*{SUFFIX}"):
        left.unlink()  # of keys that have settled; a directory in the way must be empty
    beside.replace(place)
    fsync_directory(directory)
    return place


def settle(directory: Path, wanted: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """Move successors that are named by now into the place of their predecessors, which are gone.

    Call it with what is committed: the old key has no way back.

    Returns:
        The roles whose keys were moved.
    """
    moved: list[str] = []
    for role in ONLINE_ROLES:
        path, successor = directory / f"{role}.pem", directory / NEXT / f"{role}.pem"
        if not successor.is_file() or _is_named(path, wanted[role]):
            continue
        if load_key(successor).public_key.keyid not in wanted[role]:
            continue
        os.replace(successor, path)  # noqa: PTH105  says that it replaces
        successor.with_suffix(SUFFIX).unlink(missing_ok=True)
        moved.append(role)
    if moved:
        fsync_directory(directory / NEXT)
        fsync_directory(directory)
    return tuple(moved)


def _is_named(path: Path, keyids: Collection[str]) -> bool:
    """Whether the key in its place is still the right one, whatever waits beside it."""
    return path.is_file() and load_key(path).public_key.keyid in keyids
