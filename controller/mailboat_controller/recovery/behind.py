"""Roles of which devices hold a newer version than this controller, after it was restored.

People signed those, so nobody here can sign them again: until the newest, or one after it, is
handed in, the classes that need such a role are told nothing. Devices would refuse all of it.
"""

import heapq
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import structlog

from mailboat_controller.authority.roles import ISSUED_FIELD, ISSUED_FORMAT
from mailboat_controller.releases.publication import ClassWish
from mailboat_controller.store import device_signs, recoveries, trust_roles
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.errors import OperatorNeeded
from mailboat_schemas.trust import FLEET_ROLES, approval_role, release_role

ROLE_LEAD_MAX = 1_000  # versions that people signed since; a claim beyond is a lie, or a mistake
WITNESSES_MAX = 50  # of a role, those with the highest versions; to be looked at, or revoked
WITNESSES_NAMED_MAX = 3  # in a sentence
_ONLINE = frozenset({"snapshot", "timestamp"})
_EVERYBODYS = ("root", "targets", *FLEET_ROLES)

_log = structlog.get_logger(__name__)


class RoleBehind(OperatorNeeded):
    """Devices hold a newer version of a role that people sign than the restored controller."""

    code = "E-ROLE-BEHIND"


Witnesses = Mapping[str, Mapping[str, int]]  # by role and device, the version that it holds


def witnesses_of(tx: Transaction) -> dict[str, dict[str, int]]:
    """By role, the devices in force that say they hold a newer version than ours."""
    ours = trust_roles.versions(tx)
    signed = {role: version for role, version in ours.items() if role not in _ONLINE}
    found: dict[str, list[tuple[int, str]]] = {}
    for device, role, version in device_signs.trust_versions_told(tx, signed, ROLE_LEAD_MAX):
        highest = found.setdefault(role, [])
        heapq.heappush(highest, (version, device))
        if len(highest) > WITNESSES_MAX:
            heapq.heappop(highest)
    return {
        role: {device: version for version, device in sorted(found[role], reverse=True)}
        for role in sorted(found)
    }


def highest_of(witnesses: Witnesses) -> dict[str, int]:
    return {role: max(told.values()) for role, told in witnesses.items() if told}


def still_behind(tx: Transaction) -> dict[str, int]:
    """Of what the newest recovery found, what has not been handed in since."""
    return highest_of(_still_told(tx))


def _still_told(tx: Transaction) -> Witnesses:
    """By role that we still lack, who says so of those that have not been revoked since.

    The very version that devices hold counts if it was signed before: another one under the same
    number is not loaded by a device that has the first.
    """
    recovery = recoveries.newest(tx)
    found: Witnesses = {} if recovery is None else recovery.learned.get("behind", {})
    if recovery is None or not found:
        return {}
    ours = trust_roles.versions(tx)
    lacking: dict[str, Mapping[str, int]] = {}
    for role, told in found.items():
        held = device_signs.in_force(tx, told)
        kept = {device: version for device, version in told.items() if device in held}
        if not kept and len(told) >= WITNESSES_MAX:  # there may have been more
            kept = witnesses_of(tx).get(role, {})
        highest = max(kept.values(), default=0)
        lacks = ours.get(role, 0) < highest or (
            ours.get(role) == highest and not _signed_before(tx, role, recovery.begun_at)
        )
        if highest and lacks:
            lacking[role] = kept
    return lacking


def _signed_before(tx: Transaction, role: str, instant: datetime) -> bool:
    held = trust_roles.newest_of(tx, role)
    if held is None:
        return False
    told = json.loads(held[1])["signed"].get(ISSUED_FIELD)
    try:
        issued = datetime.strptime(str(told), ISSUED_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return False
    return issued < instant


def publishable(tx: Transaction, wishes: Iterable[ClassWish]) -> tuple[ClassWish, ...]:
    """Those whose roles are as new as devices' own."""
    wanted = tuple(wishes)
    behind = _still_told(tx)
    if not behind:
        return wanted
    kept = tuple(wish for wish in wanted if not _needs(wish) & behind.keys())
    for wish in wanted:
        if wish not in kept:
            error = problem(wish.hardware_class, {r: behind[r] for r in _needs(wish) & set(behind)})
            _log.error("manifest withheld", code=error.code, problem=str(error))
    return kept


def problem(hardware_class: str, behind: Witnesses) -> RoleBehind:
    """
    Args:
        behind: of the roles that the class needs.
    """
    roles = ", ".join(f"{role} {told}" for role, told in sorted(highest_of(behind).items()))
    return RoleBehind(
        f"Devices hold {roles}, which this restored controller has lost and {hardware_class} "
        f"needs ({'; '.join(_named(role, behind[role]) for role in sorted(behind))}).",
        next_step="hand in those versions again, or newer ones; if only one device says so and "
        "you never signed it, revoke that device (docs/disaster-recovery.md). Devices serve on "
        "meanwhile.",
    )


def _named(role: str, told: Mapping[str, int]) -> str:
    names = sorted(told, key=lambda device: (-told[device], device))
    more = len(names) - WITNESSES_NAMED_MAX
    shown = ", ".join(names[:WITNESSES_NAMED_MAX])
    return f"{role} says {shown}" + (f" and {more} more" if more > 0 else "")


def _needs(wish: ClassWish) -> set[str]:
    models = {assignment.model for assignment in wish.assignments}
    return {*_EVERYBODYS, *map(release_role, models), *map(approval_role, models)}
