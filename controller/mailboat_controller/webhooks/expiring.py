"""Trust metadata that runs out, told once for each version and urgency: into the audit log, and
from there to webhooks."""

from collections.abc import Iterable
from datetime import datetime

from mailboat_controller.store import audit
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.trust.expiry import Level, RoleStatus

ACTION = "trust.expiring"
ACTOR = "controller"


def tell(tx: Transaction, statuses: Iterable[RoleStatus], now: datetime) -> int:
    """How many were new."""
    told = 0
    for each in statuses:
        if each.level is Level.OK:
            continue
        details = {"version": each.version, "level": each.level.value}
        last = audit.newest(tx, each.role, ACTION)
        if last is not None and {name: last.details.get(name) for name in details} == details:
            continue
        audit.append(
            tx,
            at=now,
            actor=ACTOR,
            action=ACTION,
            subject=each.role,
            reason=f"{each.level.value}: it ends {each.expires:%Y-%m-%d %H:%M} UTC; "
            f"{each.next_step}",
            details=details | {"expires": each.expires.isoformat()},
        )
        told += 1
    return told
