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

from mailboat_controller.authority.online import ONLINE_ROLES, OnlineKeys
from mailboat_controller.store import audit, trust_roles
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.errors import ConfigurationInvalid, SignatureInvalid
from mailboat_schemas.trust import ROLE_BYTES_MAX, Standing, TrustView

TIMESTAMP_AGE_MAX = timedelta(hours=24)
SNAPSHOT_AGE_MAX = timedelta(days=15)  # half of its life: a fortnight to notice that it fails
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
        raise ConfigurationInvalid(
            "The controller holds no trust metadata.",
            next_step="make it with `mailboat trust init` and import it with `mailboat init`.",
        )
    files = {f"root_history/{version_of(root)}.root.json": root for root in roots}
    files |= {f"{role}.json": content for role, content in roles.items()}
    return HeldTrust(roles=roles, roots=roots, view=TrustView(roots[0], files))


def require_named(keys: OnlineKeys, trust: HeldTrust) -> None:
    """Every signature of another key would be refused by every device, without a word to us.

    Raises:
        ConfigurationInvalid: an online key is not the one that the offline roles name.
    """
    targets = trust.view.targets
    delegations = None if targets is None else targets.delegations
    delegated = {} if delegations is None else delegations.roles or {}
    named = {**trust.view.root.signed.roles, **delegated}
    for role in ONLINE_ROLES:
        keyid = getattr(keys, role).public_key.keyid
        if role not in named or keyid not in named[role].keyids:
            raise ConfigurationInvalid(
                f"The key {role}.pem is not the one that the trust metadata names for {role}.",
                next_step="put the keys and the trust files of one ceremony into the data "
                "directory; `mailboat trust init` made them together.",
            )


def import_directory(tx: Transaction, directory: Path, now: datetime) -> tuple[str, ...]:
    """Take newer roots and offline roles from files named as the ceremony names them.

    The ceremony's snapshot and timestamp are taken once; from then on they are signed here and
    those of the directory are old. Everything is verified before the caller's transaction ends.

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
        read(tx)
        _record(tx, now, "trust.import", taken, "newer files in the trust directory")
    return tuple(taken)


def renew(tx: Transaction, keys: OnlineKeys, now: datetime) -> tuple[str, ...]:
    """Sign snapshot and timestamp again when what they cover changed, or when they grow old.

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
    changed = any(
        listed.get(f"{role}.json", {}).get("version") != version
        for role, version in versions.items()
    )
    if changed or now - snapshot.received_at > SNAPSHOT_AGE_MAX:
        content = keys.sign_snapshot(snapshot.content, versions, now=now)
        trust_roles.put(tx, "snapshot", snapshot.version + 1, content, now)
        snapshot = _Held(snapshot.version + 1, content, now)
        signed.append("snapshot")
    pinned = _signed(timestamp.content)["meta"]["snapshot.json"]["version"]
    if pinned != snapshot.version or now - timestamp.received_at > TIMESTAMP_AGE_MAX:
        content = keys.sign_timestamp(timestamp.content, snapshot.content, now=now)
        trust_roles.put(tx, "timestamp", timestamp.version + 1, content, now)
        signed.append("timestamp")
    if signed:
        why = "a role changed" if changed else "signed again before it grows old"
        _record(tx, now, "trust.sign", signed, why)
    return tuple(signed)


def version_of(content: bytes) -> int:
    """The version a role's bytes claim."""
    version: int = _signed(content)["version"]
    return version


@dataclass(frozen=True, slots=True)
class _Held:
    version: int
    content: bytes
    received_at: datetime


def _held(tx: Transaction, role: str) -> _Held:
    held = trust_roles.newest_of(tx, role)
    if held is None:
        raise ConfigurationInvalid(
            f"The controller holds no {role} role.",
            next_step="copy the trust directory of `mailboat trust init` into the data directory.",
        )
    return _Held(*held)


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
