"""May these new roles be taken? Pure verification of root, targets, and what follows from them.

The people who change keys sign offline; here the controller finds out what every device would
stumble over, while somebody is there to hear of it. All roles of one submission are taken or none.
Roles below targets may only be signed again with the same contents here: what is released and what
is approved comes in as a submission, where the documents are looked at (`intake`).

Source of the order of checks: The Update Framework specification 1.0.34, section 5.3 and 5.6.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from securesystemslib.signer import Key
from tuf.api.metadata import TOP_LEVEL_ROLE_NAMES, Metadata, Root, Targets

from mailboat_controller.authority.changes import KEYS_PER_ROLE_MAX, read_metadata
from mailboat_controller.authority.description import describe
from mailboat_controller.authority.public_keys import has_own_id, label_of, material_of
from mailboat_controller.authority.roles import (
    APPROVAL_PREFIX,
    ISSUED_FIELD,
    ISSUED_FORMAT,
    RELEASE_PREFIX,
    lasts_too_long,
    paths_of,
)
from mailboat_controller.trust.intake import ISSUED_AHEAD_MAX
from mailboat_schemas.errors import (
    Conflict,
    NotFound,
    PayloadTooLarge,
    SignatureInvalid,
    ThresholdNotMet,
    TrustRefused,
)
from mailboat_schemas.trust import DIRECTOR_ROLE, ROLE_BYTES_MAX

ROLES_MAX = 64  # targets, and the two roles of thirty models
_OFFLINE_TOP = ("root", "targets")


class RebaseNeeded(Conflict):
    """Not the version after the one in force: somebody was faster, or a version is missing."""

    code = "E-REBASE"


class RoleUnknown(NotFound):
    code = "E-ROLE-UNKNOWN"


class RoleUnusable(TrustRefused):
    """Signed, and yet nothing that devices could work with."""

    code = "E-ROLE-SHAPE"


class RoleExpired(TrustRefused):
    code = "E-ROLE-EXPIRED"


class RoleFromTheFuture(TrustRefused):
    code = "E-ROLE-ISSUED"


class KeyShared(TrustRefused):
    """One key in two roles that exist to watch each other."""

    code = "E-KEY-SHARED"


class RoleContentsChanged(TrustRefused):
    """A release or approval that wants to come in by the side door."""

    code = "E-ROLE-CONTENTS"


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenRoles:
    """Verified. ``changes`` says in sentences what they change."""

    roles: Mapping[str, bytes]
    versions: Mapping[str, int]
    changes: tuple[str, ...]


def judge_roles(
    offered: Mapping[str, bytes], held: Mapping[str, bytes], now: datetime
) -> TakenRoles:
    """
    Args:
        held: newest bytes of every role, the root's too.

    Raises:
        RoleUnknown, RebaseNeeded, SignatureInvalid, RoleExpired, RoleFromTheFuture, RoleUnusable,
        KeyShared, RoleContentsChanged, PayloadTooLarge, MalformedPayload: nothing is taken.
    """
    if not 0 < len(offered) <= ROLES_MAX:
        raise RoleUnusable(
            f"A submission has 1 to {ROLES_MAX} roles, not {len(offered)}.",
            next_step="make the change in several steps.",
        )
    old = {role: read_metadata(role, content) for role, content in held.items() if _offline(role)}
    new = {role: _read(role, offered[role]) for role in sorted(offered)}
    after = {**old, **new}
    root, targets = after["root"], after["targets"]
    for role, metadata in new.items():
        _require_known(role, targets.signed)
        _require_next_version(role, old.get(role), metadata)
    if "root" in new:
        _require_signed("root", new["root"], old["root"].signed, "the keys of the root in force")
        _require_sound_root(new["root"].signed)
    for role in _OFFLINE_TOP:
        _require_signed(role, after[role], root.signed, "the keys that the root names")
    if "targets" in new:
        _require_sound_targets(old["targets"].signed, new["targets"].signed, after)
    for role in sorted(after.keys() - set(_OFFLINE_TOP)):
        _require_signed(role, after[role], targets.signed, "the keys that targets names")
    _require_separate(root.signed, targets.signed)
    for role, metadata in new.items():
        _require_current(role, metadata.signed, now)
        if role not in _OFFLINE_TOP:
            _require_same_contents(role, old.get(role), metadata)
    return TakenRoles(
        roles=dict(offered),
        versions={role: metadata.signed.version for role, metadata in new.items()},
        changes=tuple(_changes(old, new)),
    )


def _offline(role: str) -> bool:
    return role not in ("snapshot", "timestamp")


def _read(role: str, content: bytes) -> Metadata[Any]:
    if len(content) > ROLE_BYTES_MAX:
        raise PayloadTooLarge(f"{role} role", len(content), ROLE_BYTES_MAX)
    return read_metadata(role, content)


def _require_known(role: str, targets: Targets) -> None:
    if role in _OFFLINE_TOP or (role in _delegated(targets) and role != DIRECTOR_ROLE):
        return
    raise RoleUnknown(
        f"There is no role {role[:80]} that people sign.",
        next_step="make a model's roles with `mailboat trust add-model`; "
        "the controller signs snapshot and timestamp itself.",
    )


def _require_next_version(role: str, old: Metadata[Any] | None, new: Metadata[Any]) -> None:
    expected = 1 if old is None else old.signed.version + 1
    if new.signed.version != expected:
        raise RebaseNeeded(
            f"Role {role} is version {new.signed.version}, expected {expected}.",
            next_step="make the same request again, which builds on the newest version "
            "(`mailboat trust rebase`), and have that signed.",
        )


def _require_signed(role: str, metadata: Metadata[Any], by: Root | Targets, whose: str) -> None:
    try:
        result = by.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    except ValueError as error:
        raise RoleUnusable(
            f"Nobody may sign {role} any more: {error}.",
            next_step="a delegation is never taken away; retire its keys instead.",
        ) from error
    if not result:
        kind = ThresholdNotMet if result.signed else SignatureInvalid
        raise kind(
            f"Role {role} version {metadata.signed.version} is signed by {len(result.signed)} of "
            f"{whose}; it takes {result.threshold}.",
            next_step="let more of them sign; a role whose keys change is signed again by the new "
            "ones and handed in together, as `mailboat trust` prepares it.",
        )


def _require_sound_root(root: Root) -> None:
    if not root.consistent_snapshot:
        raise _unusable("root", "it does not ask for consistent snapshots")
    if root.roles.keys() != set(TOP_LEVEL_ROLE_NAMES):
        raise _unusable("root", "it names other roles than the four")
    for name, role in root.roles.items():
        _require_quorum(name, role.keyids, role.threshold, root.keys)


def _require_sound_targets(old: Targets, new: Targets, after: Mapping[str, Metadata[Any]]) -> None:
    if new.targets:
        raise _unusable("targets", "it lists files itself")
    delegated = _delegated(new)
    if new.delegations is None or new.delegations.succinct_roles is not None:
        raise _unusable("targets", "it delegates in a way devices do not know")
    for name in _delegated(old).keys() - delegated.keys():
        raise _unusable("targets", f"the delegation to {name} is gone; retire its keys instead")
    for name, role in delegated.items():
        try:
            sound = role.paths == paths_of(name) and not role.path_hash_prefixes
        except ValueError:
            sound = False
        if not sound or role.terminating:
            raise _unusable("targets", f"{name} is no role, or may list other paths than its own")
        _require_quorum(name, role.keyids, role.threshold, new.delegations.keys)
        if name != DIRECTOR_ROLE and name not in after:
            raise _unusable("targets", f"role {name} is new, and its first version not there")
    if len(delegated[DIRECTOR_ROLE].keyids) != 1:
        raise _unusable("targets", "the director has more than one key")


def _require_quorum(
    name: str, keyids: Iterable[str], threshold: int, keys: Mapping[str, Key]
) -> None:
    ids = list(keyids)
    # An id that is not the hash of its key would let one key count twice, under two ids.
    if any(keyid not in keys or not has_own_id(keys[keyid]) for keyid in ids):
        raise _unusable(name, "a key is missing, or has an id that is not its own")
    if not 1 <= threshold <= len(set(ids)) <= KEYS_PER_ROLE_MAX or len(set(ids)) != len(ids):
        raise _unusable(name, f"{threshold} of {len(ids)} keys cannot be its quorum")
    try:
        materials = {material_of(keys[keyid]) for keyid in ids}
    except ValueError as error:
        raise _unusable(name, f"it names a key that no device can use: {error}") from error
    # Written in two ways, one key has two ids, each its own.
    if len(materials) != len(ids):
        raise _unusable(name, "a key is named twice, written in two ways")


def _require_separate(root: Root, targets: Targets) -> None:
    """No key in two roles that watch each other: who releases, who approves, who assigns, who is
    online. The same person may approve several models."""
    owners: dict[bytes, str] = {}  # by what the key is: its id depends on how it is written
    keys = {**root.keys, **(targets.delegations.keys if targets.delegations else {})}
    for name, role in (*root.roles.items(), *_delegated(targets).items()):
        kind = next((p[:-1] for p in (RELEASE_PREFIX, APPROVAL_PREFIX) if name.startswith(p)), name)
        kind = "approval" if kind in ("policy", "config") else kind
        for keyid in role.keyids:
            other = owners.setdefault(material_of(keys[keyid]), kind)
            if other != kind:
                raise KeyShared(
                    f"{label_of(keys[keyid])} may sign for {other} and for {kind}.",
                    next_step="give each its own key: they exist to watch each other.",
                )


def _require_current(role: str, signed: Root | Targets, now: datetime) -> None:
    if signed.is_expired(now.astimezone(UTC)):
        raise RoleExpired(
            f"Role {role} expired at {signed.expires:%Y-%m-%dT%H:%M:%SZ}.",
            next_step="check the clock of whoever made the request, and make it again.",
        )
    if lasts_too_long(role, signed.expires, now):
        raise _unusable(role, "it lasts longer than an approval may")
    text = signed.unrecognized_fields.get(ISSUED_FIELD)
    if text is None:
        return
    try:
        issued = datetime.strptime(str(text), ISSUED_FORMAT).replace(tzinfo=UTC)
    except ValueError as error:
        raise _unusable(role, f"{ISSUED_FIELD} is not a time") from error
    # Devices take it as a floor for their clocks, and would refuse everything until that day.
    if issued > now + ISSUED_AHEAD_MAX:
        raise RoleFromTheFuture(
            f"Role {role} says it was made at {text}, which is yet to come.",
            next_step="check the clock of whoever made the request, then the controller's.",
        )


def _require_same_contents(role: str, old: Metadata[Any] | None, new: Metadata[Any]) -> None:
    before = {} if old is None else old.signed.targets
    if new.signed.delegations is not None:
        raise _unusable(role, "it delegates further")
    if new.signed.targets != before:
        raise RoleContentsChanged(
            f"Role {role} lists other targets than the one in force.",
            next_step="hand in releases and approvals with `mailboat release submit`; "
            "here a role is only signed again.",
        )


def _changes(old: Mapping[str, Metadata[Any]], new: Mapping[str, Metadata[Any]]) -> Iterable[str]:
    for role, metadata in new.items():
        yield from describe(role, old[role].signed if role in old else None, metadata.signed)


def _delegated(targets: Targets) -> Mapping[str, Any]:
    delegations = targets.delegations
    return {} if delegations is None else delegations.roles or {}


def _unusable(role: str, problem: str) -> RoleUnusable:
    return RoleUnusable(
        f"Role {role} is nothing devices could work with: {problem}.",
        next_step="prepare the change with `mailboat trust`, which keeps these rules.",
    )
