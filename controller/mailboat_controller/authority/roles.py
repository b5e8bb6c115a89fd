"""Building and signing TUF metadata. The shape is that of DESIGN section 4.

``x-mailboat-issued`` in what offline keys sign lifts the time floor of devices; online roles do not
carry it, so a stolen controller cannot push a device's clock forward.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from securesystemslib.signer import CryptoSigner, Signer
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

from mailboat_schemas.errors import MalformedPayload, NotFound
from mailboat_schemas.names import approval_path, release_path
from mailboat_schemas.trust import DIRECTOR_ROLE, approval_role, release_role

ISSUED_FIELD = "x-mailboat-issued"
ISSUED_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
ROOT_VALID = timedelta(days=730)
TARGETS_VALID = timedelta(days=365)
RELEASE_ROLE_VALID = timedelta(days=365)
# Withdrawals must reach devices even when the controller is stolen and hides them.
APPROVAL_ROLE_VALID = timedelta(days=30)
SNAPSHOT_VALID = timedelta(days=30)
TIMESTAMP_VALID = timedelta(days=7)

_SERIALIZER = JSONSerializer(compact=True)


TopOrDelegated = TypeVar("TopOrDelegated", Root, Timestamp, Snapshot, Targets)


def sign(signed: TopOrDelegated, signers: Iterable[Signer]) -> bytes:
    """Canonical metadata bytes with one signature by each signer."""
    metadata: Metadata[TopOrDelegated] = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes(_SERIALIZER)


def stamp(signed: Root | Targets, now: datetime) -> None:
    signed.unrecognized_fields[ISSUED_FIELD] = now.astimezone(UTC).strftime(ISSUED_FORMAT)


def expiry(now: datetime, valid: timedelta) -> datetime:
    return (now.astimezone(UTC) + valid).replace(microsecond=0)


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


def delegate_model(
    targets: Targets,
    model: str,
    *,
    release_keys: Iterable[Key],
    approval_keys: Iterable[Key],
    approval_threshold: int = 1,
) -> None:
    """Name who may release, and who may approve, a model. Their paths are disjoint, because a
    client's search stops at the first role that has a path."""
    if targets.delegations is None or targets.delegations.roles is None:
        raise ValueError("targets has no delegations")
    wanted = (
        (release_role(model), [f"release/{model}/*"], list(release_keys), 1),
        (approval_role(model), [f"approval/{model}/*"], list(approval_keys), approval_threshold),
    )
    for name, paths, keys, threshold in wanted:
        ids = [key.keyid for key in keys]
        targets.delegations.roles[name] = DelegatedRole(
            name, ids, threshold, terminating=False, paths=paths
        )
        targets.delegations.keys.update({key.keyid: key for key in keys})


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
    role.version += 1
    role.expires = expiry(now, valid)
    role.targets = dict(targets)
    stamp(role, now)
    return role


def add_release(
    current: bytes,
    signer: CryptoSigner,
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
    signers: Iterable[CryptoSigner],
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
    target.unrecognized_fields["custom"] = dict(plan)
    listed[path] = target
    return sign(next_version(current, listed, now, APPROVAL_ROLE_VALID), signers)


def remove_approval(
    current: bytes, signers: Iterable[CryptoSigner], *, model: str, version: str, now: datetime
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
