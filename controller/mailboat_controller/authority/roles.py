"""Building and signing TUF metadata. The shape is that of DESIGN section 4.

``x-mailboat-issued`` in what offline keys sign lifts the time floor of devices; online roles do not
carry it, so a stolen controller cannot push a device's clock forward.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from securesystemslib.signer import Signer
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Key,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.errors import MailboatError, MalformedPayload, NotFound
from mailboat_schemas.names import approval_path, is_label, release_path
from mailboat_schemas.staleness import approval_mark
from mailboat_schemas.trust import DIRECTOR_ROLE, FLEET_ROLES

ISSUED_FIELD = "x-mailboat-issued"
ISSUED_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
ROOT_VALID = timedelta(days=730)
TARGETS_VALID = timedelta(days=365)
RELEASE_ROLE_VALID = timedelta(days=365)
# Withdrawals must reach devices even when the controller is stolen and hides them.
APPROVAL_ROLE_VALID = timedelta(days=30)
SIGNER_AHEAD_MAX = timedelta(minutes=5)  # the signer's clock may be this much before ours
SNAPSHOT_VALID = timedelta(days=30)
TIMESTAMP_VALID = timedelta(days=7)

RELEASE_PREFIX = "release-"
APPROVAL_PREFIX = "approval-"
SERIALIZER = JSONSerializer(compact=True)

TopOrDelegated = TypeVar("TopOrDelegated", Root, Timestamp, Snapshot, Targets)


def sign(signed: TopOrDelegated, signers: Iterable[Signer]) -> bytes:
    """Canonical metadata bytes with one signature by each signer."""
    metadata: Metadata[TopOrDelegated] = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes(SERIALIZER)


def stamp(signed: Root | Targets, now: datetime) -> None:
    signed.unrecognized_fields[ISSUED_FIELD] = now.astimezone(UTC).strftime(ISSUED_FORMAT)


def expiry(now: datetime, valid: timedelta) -> datetime:
    return (now.astimezone(UTC) + valid).replace(microsecond=0)


def valid_for(role: str) -> timedelta:
    """How long a version of a role that people sign is good for."""
    if role.startswith(APPROVAL_PREFIX):
        return APPROVAL_ROLE_VALID
    return {"root": ROOT_VALID, "targets": TARGETS_VALID}.get(role, RELEASE_ROLE_VALID)


def lasts_too_long(role: str, expires: datetime, now: datetime) -> bool:
    """Whether an approval ends later than one that is signed now may. Whoever stole the controller
    can hide a withdrawal for as long as the approvals last that devices have seen.

    Source: DESIGN section 4, what a stolen controller can do.
    """
    latest = now.astimezone(UTC) + APPROVAL_ROLE_VALID + SIGNER_AHEAD_MAX
    return role.startswith(APPROVAL_PREFIX) and expires > latest


def paths_of(role: str) -> list[str]:
    """What a role below targets may list. No two roles share a path, because a client's search
    stops at the first role that has it.

    Raises:
        ValueError: targets delegates to no such role.
    """
    for prefix in (RELEASE_PREFIX, APPROVAL_PREFIX):
        if role.startswith(prefix) and is_label(model := role.removeprefix(prefix)):
            return [f"{prefix[:-1]}/{model}/*"]
    if role in FLEET_ROLES:
        return [f"{role}/*"]
    if role == DIRECTOR_ROLE:
        return []  # it signs desired states, and lists nothing
    raise ValueError(f"there is no role {role}")


def make_root(
    keys: Mapping[str, Iterable[Key]], thresholds: Mapping[str, int], now: datetime
) -> Root:
    """Root version 1 for the four top-level roles.

    Args:
        keys: role name to public keys.
        thresholds: role name to how many of them must sign.
    """
    root = Root(version=1, expires=expiry(now, ROOT_VALID), consistent_snapshot=True)
    for role, role_keys in keys.items():
        for key in role_keys:
            root.add_key(key, role)
        root.roles[role].threshold = thresholds.get(role, 1)
    stamp(root, now)
    return root


def make_targets(director: Key, now: datetime) -> Targets:
    """Targets version 1: no targets of its own, one delegation to the director."""
    targets = Targets(version=1, expires=expiry(now, TARGETS_VALID))
    role = DelegatedRole(DIRECTOR_ROLE, [director.keyid], 1, terminating=False, paths=[])
    targets.delegations = Delegations({director.keyid: director}, {DIRECTOR_ROLE: role})
    stamp(targets, now)
    return targets


def delegate(targets: Targets, role: str, keys: Iterable[Key], threshold: int = 1) -> None:
    """Name the keys of a role below targets, the first time or anew."""
    if targets.delegations is None or targets.delegations.roles is None:
        raise ValueError("targets has no delegations")
    named = {key.keyid: key for key in keys}
    targets.delegations.roles[role] = DelegatedRole(
        role, list(named), threshold, terminating=False, paths=paths_of(role)
    )
    targets.delegations.keys.update(named)


def empty_role(now: datetime, valid: timedelta) -> Targets:
    """Version 1 of a delegated role: every delegated role exists from the ceremony on, so that
    a bundle without it is known to be incomplete."""
    role = Targets(version=1, expires=expiry(now, valid))
    stamp(role, now)
    return role


def next_version(
    current: bytes, targets: Mapping[str, TargetFile], now: datetime, valid: timedelta
) -> Targets:
    """The following version of a delegated role with its targets replaced."""
    role = _read(current)
    role.targets = dict(targets)
    move_on(role, now, valid)
    return role


def move_on(signed: Root | Targets, now: datetime, valid: timedelta) -> None:
    """Make it the following version, signed today."""
    signed.version += 1
    signed.expires = expiry(now, valid)
    stamp(signed, now)


def add_release(
    current: bytes,
    signer: Signer,
    *,
    model: str,
    version: str,
    document: bytes,
    now: datetime,
) -> bytes:
    """The release role with one more release document listed."""
    path = release_path(model, version)
    listed = _listed(current)
    listed[path] = TargetFile.from_data(path, document, ["sha256"])
    return sign(next_version(current, listed, now, RELEASE_ROLE_VALID), [signer])


def add_approval(
    current: bytes,
    signers: Iterable[Signer],
    *,
    model: str,
    version: str,
    document: bytes,
    plan: Mapping[str, object],
    now: datetime,
) -> bytes:
    """The approval role with one more release, and the plan it may run on."""
    path = approval_path(model, version)
    listed = _listed(current)
    target = TargetFile.from_data(path, document, ["sha256"])
    target.unrecognized_fields["custom"] = {**plan, **_mark(document, now)}
    listed[path] = target
    return sign(next_version(current, listed, now, APPROVAL_ROLE_VALID), signers)


def _mark(document: bytes, now: datetime) -> dict[str, Any]:
    """What devices judge staleness by; of bytes that are no release document, nothing."""
    try:
        return approval_mark(ReleaseDocument.parse(document).security_version, now)
    except MailboatError:
        return {}


def remove_approval(
    current: bytes, signers: Iterable[Signer], *, model: str, version: str, now: datetime
) -> bytes:
    """The approval role without a release: it is withdrawn wherever this version arrives.

    Raises:
        NotFound: it was not approved.
    """
    listed = _listed(current)
    if listed.pop(approval_path(model, version), None) is None:
        raise NotFound(
            f"{model} {version} is not approved.",
            next_step="look at the version; the newest approval role lists those that are.",
        )
    return sign(next_version(current, listed, now, APPROVAL_ROLE_VALID), signers)


def make_snapshot(versions: Mapping[str, int], now: datetime) -> Snapshot:
    meta = {f"{role}.json": MetaFile(version=version) for role, version in versions.items()}
    return Snapshot(version=1, expires=expiry(now, SNAPSHOT_VALID), meta=meta)


def make_timestamp(snapshot: bytes, version: int, now: datetime) -> Timestamp:
    """The timestamp role pinning a snapshot by version, length and sha256."""
    signed: Metadata[Snapshot] = Metadata[Snapshot].from_bytes(snapshot)
    meta = MetaFile.from_data(signed.signed.version, snapshot, ["sha256"])
    return Timestamp(version=version, expires=expiry(now, TIMESTAMP_VALID), snapshot_meta=meta)


def _listed(current: bytes) -> dict[str, TargetFile]:
    return dict(_read(current).targets)


def _read(current: bytes) -> Targets:
    try:
        role = Metadata[Targets].from_bytes(current).signed
    except DeserializationError as error:
        raise MalformedPayload(
            "The role to add to is not TUF metadata.",
            next_step="fetch its newest version from the controller.",
        ) from error
    # from_bytes reads whatever type of role the bytes claim to be.
    if not isinstance(role, Targets):
        raise MalformedPayload(
            f"The role to add to is a {role.type} role.",
            next_step="name the file of the release or approval role.",
        )
    return role
