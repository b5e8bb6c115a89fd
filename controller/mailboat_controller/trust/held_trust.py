"""The trust metadata this controller holds: taken in at start, kept fresh, and read.

Level-based: `renew` looks at what is stored and signs a snapshot or timestamp when they do not fit
it any more, so a crash between any two steps is repaired by the next call.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, Root

from mailboat_controller.authority.online import ONLINE_ROLES, OnlineKeys
from mailboat_controller.authority.roles import SNAPSHOT_VALID, TIMESTAMP_VALID
from mailboat_controller.store import audit, trust_roles
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.errors import ConfigurationInvalid, SignatureInvalid
from mailboat_schemas.trust import ROLE_BYTES_MAX, Standing, TrustView

TIMESTAMP_AGE_MAX = timedelta(hours=24)
SNAPSHOT_AGE_MAX = timedelta(days=15)  # half of its life: a fortnight to notice that it fails
# The ceremony's own may have lain about for weeks when it is imported: what counts is what is left.
TIMESTAMP_LEFT_MIN = TIMESTAMP_VALID - TIMESTAMP_AGE_MAX
SNAPSHOT_LEFT_MIN = SNAPSHOT_VALID - SNAPSHOT_AGE_MAX
ACTOR = "controller"
_ONLINE = frozenset({"snapshot", "timestamp"})
_TOP_LEVEL = frozenset({"root", "snapshot", "timestamp"})


@dataclass(frozen=True, slots=True)
class HeldTrust:
    """Verified metadata, read from one state of the database."""

    roles: Mapping[str, bytes]  # the newest of each, without the root
    roots: tuple[bytes, ...]
    view: TrustView

    def standing(self, model: str, version: str) -> Standing | None:
        """None when the approver signed no readable plan: nothing may run on it."""
        try:
            return self.view.standing(model, version)
        except SignatureInvalid:
            return None

    def approved(self, model: str, version: str, digest: str) -> bool:
        standing = self.standing(model, version)
        return standing is not None and standing.may_serve(digest)


def read(tx: Transaction) -> HeldTrust:
    """
    Raises:
        ConfigurationInvalid: nothing has been imported yet.
        TrustRefused: what is stored does not verify against its own root.
    """
    roots = trust_roles.roots(tx)
    roles = {role: content for role, content in trust_roles.newest(tx).items() if role != "root"}
    if not roots or not {"targets", *_ONLINE} <= roles.keys():
        raise _nothing_held()
    files = {f"root_history/{version_of(root)}.root.json": root for root in roots}
    files |= {f"{role}.json": content for role, content in roles.items()}
    return HeldTrust(roles=roles, roots=roots, view=TrustView(roots[0], files))


def named_keyids(tx: Transaction) -> dict[str, tuple[str, ...]]:
    """Who may sign what online, by the newest root and targets."""
    newest_root, newest_targets = (trust_roles.newest_of(tx, r) for r in ("root", "targets"))
    if newest_root is None or newest_targets is None:
        raise _nothing_held()
    root = _signed(newest_root[1])["roles"]
    delegated = _signed(newest_targets[1])["delegations"]["roles"]
    named = {**root, **{role["name"]: role for role in delegated}}
    return {role: tuple(named.get(role, {}).get("keyids", ())) for role in ONLINE_ROLES}


def named_keys(tx: Transaction, keys: OnlineKeys) -> OnlineKeys:
    """The keys to sign with: those that the newest metadata names.

    Raises:
        OnlineKeyNotNamed: it names one that this controller does not have.
        ConfigurationInvalid: nothing has been imported yet.
    """
    return keys.named(named_keyids(tx))


def import_directory(
    tx: Transaction, directory: Path, now: datetime, keys: OnlineKeys | None = None
) -> tuple[str, ...]:
    """Take newer roots and offline roles from files named as the ceremony names them.

    The ceremony's snapshot and timestamp are taken once; from then on they are signed here and
    those of the directory are old. Everything is verified before the caller's transaction ends.

    Args:
        keys: sign snapshot and timestamp again at once, where a new root names new keys.

    Returns:
        What was taken, as role and version.

    Raises:
        ConfigurationInvalid: a file is not metadata.
        TrustRefused: what the controller would then hold does not verify.
    """
    taken: list[str] = []
    for role, version, content in sorted(_files(directory)):
        held = trust_roles.newest_of(tx, role)
        if held is not None and version <= held[0]:
            continue
        trust_roles.put(tx, role, version, content, now)
        taken.append(f"{role} {version}")
    if taken:
        if keys is not None:
            renew(tx, named_keys(tx, keys), now)
        read(tx)
        _record(tx, now, "trust.import", taken, "newer files in the trust directory")
    return tuple(taken)


def renew(tx: Transaction, keys: OnlineKeys, now: datetime) -> tuple[str, ...]:
    """Sign snapshot and timestamp again when what they cover changed, when they grow old, or when
    their keys were rotated.

    Returns:
        Which of the two were signed; nothing on most calls.
    """
    snapshot, timestamp = _held(tx, "snapshot"), _held(tx, "timestamp")
    signed: list[str] = []
    versions = {
        role: version_of(content)
        for role, content in trust_roles.newest(tx).items()
        if role not in _TOP_LEVEL
    }
    listed = _signed(snapshot.content)["meta"]
    # After a restore a snapshot may list what we have lost: it never goes down from there.
    versions = {
        role: max(version, listed.get(f"{role}.json", {}).get("version", 0))
        for role, version in versions.items()
    }
    changed = any(
        listed.get(f"{role}.json", {}).get("version") != version
        for role, version in versions.items()
    )
    rotated = _unsigned(tx, {"snapshot": snapshot.content, "timestamp": timestamp.content})
    old = snapshot.grows_old(now, SNAPSHOT_AGE_MAX, SNAPSHOT_LEFT_MIN)
    if changed or "snapshot" in rotated or old:
        content = keys.sign_snapshot(snapshot.content, versions, now=now)
        trust_roles.put(tx, "snapshot", snapshot.version + 1, content, now)
        snapshot = _Held(snapshot.version + 1, content, now)
        signed.append("snapshot")
    pinned = _signed(timestamp.content)["meta"]["snapshot.json"]["version"]
    stale = timestamp.grows_old(now, TIMESTAMP_AGE_MAX, TIMESTAMP_LEFT_MIN)
    if pinned != snapshot.version or "timestamp" in rotated or stale:
        content = keys.sign_timestamp(timestamp.content, snapshot.content, now=now)
        trust_roles.put(tx, "timestamp", timestamp.version + 1, content, now)
        signed.append("timestamp")
    if signed:
        why = "a role changed" if changed else "signed again before it grows old"
        why = "its keys changed" if rotated else why
        _record(tx, now, "trust.sign", signed, why)
    return tuple(signed)


def sign_above(
    tx: Transaction, keys: OnlineKeys, above: Mapping[str, int], now: datetime
) -> dict[str, int]:
    """Sign snapshot and timestamp under versions beyond these: a restored controller may have
    given higher ones than it knows.

    Returns:
        The versions they have then.
    """
    snapshot, timestamp = _held(tx, "snapshot"), _held(tx, "timestamp")
    listed = _signed(snapshot.content)["meta"]
    versions = {
        role: max(version, listed.get(f"{role}.json", {}).get("version", 0))
        for role, version in trust_roles.versions(tx).items()
        if role not in _TOP_LEVEL
    }
    content = keys.sign_snapshot(snapshot.content, versions, now=now, above=above["snapshot"])
    trust_roles.put(tx, "snapshot", version_of(content), content, now)
    stamped = keys.sign_timestamp(timestamp.content, content, now=now, above=above["timestamp"])
    trust_roles.put(tx, "timestamp", version_of(stamped), stamped, now)
    return {"snapshot": version_of(content), "timestamp": version_of(stamped)}


def _unsigned(tx: Transaction, held: Mapping[str, bytes]) -> set[str]:
    """Which of these the newest root's keys have not signed."""
    newest = trust_roles.newest_of(tx, "root")
    if newest is None:
        raise _nothing_held()
    root = Metadata[Root].from_bytes(newest[1]).signed
    found: set[str] = set()
    for role, content in held.items():
        metadata: Metadata[Any] = Metadata.from_bytes(content)
        if not root.get_verification_result(role, metadata.signed_bytes, metadata.signatures):
            found.add(role)
    return found


def version_of(content: bytes) -> int:
    """The version a role's bytes claim."""
    version: int = _signed(content)["version"]
    return version


@dataclass(frozen=True, slots=True)
class _Held:
    version: int
    content: bytes
    received_at: datetime

    def grows_old(self, now: datetime, age_max: timedelta, left_min: timedelta) -> bool:
        expires: datetime = Metadata.from_bytes(self.content).signed.expires
        return now - self.received_at > age_max or expires - now < left_min


def _held(tx: Transaction, role: str) -> _Held:
    held = trust_roles.newest_of(tx, role)
    if held is None:
        raise ConfigurationInvalid(
            f"The controller holds no {role} role.",
            next_step="copy the trust directory of `mailboat trust init` into the data directory.",
        )
    return _Held(*held)


def _nothing_held() -> ConfigurationInvalid:
    return ConfigurationInvalid(
        "The controller holds no trust metadata.",
        next_step="make it with `mailboat trust init` and import it with `mailboat init`.",
    )


def _record(tx: Transaction, now: datetime, action: str, roles: Sequence[str], reason: str) -> None:
    subject = ", ".join(roles)
    audit.append(tx, at=now, actor=ACTOR, action=action, subject=subject, reason=reason)


def _signed(content: bytes) -> dict[str, Any]:
    signed: dict[str, Any] = json.loads(content)["signed"]
    return signed


def _files(directory: Path) -> Iterator[tuple[str, int, bytes]]:
    """Role, version and content of every file."""
    for path in directory.glob("*.json"):
        content = path.read_bytes()
        role = path.name.removesuffix(".json")
        yield (
            "root" if role.endswith(".root") else role,
            _readable_version(path, content),
            content,
        )


def _readable_version(path: Path, content: bytes) -> int:
    try:
        # A file cut off at the bound is no JSON any more.
        return version_of(content[:ROLE_BYTES_MAX])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationInvalid(
            f"{path} is not trust metadata: {error}.",
            next_step="copy the file again from the machine where the roles are signed.",
        ) from error
