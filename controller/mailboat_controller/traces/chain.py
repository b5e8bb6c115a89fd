"""The steps of one release's story, in order: pure, from the rows that tell of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mailboat_controller.rollout.state import ORDERS
from mailboat_controller.store.audit import AuditRow
from mailboat_controller.store.events import EventRow
from mailboat_controller.store.first_told import FirstTold
from mailboat_schemas.events import RECOVERY_SECONDS
from mailboat_schemas.tracing import span_id

_YEAR_MAX_MS = 253_402_300_799_000  # the last second of 9999; a device's clock may say more


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """``at`` is the controller's clock, ``device_at`` the device's, where a device told of it."""

    at: datetime
    what: str  # noun.verb, or device.<kind of event>
    who: str
    subject: str
    because: str
    span: str
    details: Mapping[str, Any]
    device_at: datetime | None = None


def chain(
    trace: str,
    entries: Iterable[AuditRow],
    told: Iterable[FirstTold],
    events: Iterable[EventRow],
) -> tuple[Step, ...]:
    """Each step once, by the controller's clock; what is told in one instant keeps its order."""
    steps = [
        *(_entry(trace, row) for row in {each.sequence: each for each in entries}.values()),
        *(_manifest(trace, row) for row in told),
        *(_event(trace, row) for row in events),
    ]
    return tuple(sorted(steps, key=lambda step: (step.at, _place(step.what))))


# Of what is recorded in one instant: what leads to what.
_ORDERS = tuple(f"rollout.{order.value}" for order in ORDERS)
_PLACES = (
    ("release.", "submission.", "rollout.running", "rollout.wave", *_ORDERS),
    ("manifest.offer",),
    ("device.",),
    ("rollout.", "assignment."),
    ("manifest.",),
)


def _place(what: str) -> int:
    return next(
        (place for place, names in enumerate(_PLACES) if what.startswith(names)), len(_PLACES)
    )


def _entry(trace: str, row: AuditRow) -> Step:
    return Step(
        at=row.at,
        what=row.action,
        who=row.actor,
        subject=row.subject,
        because=row.reason,
        span=span_id(trace, f"audit {row.sequence}"),
        details={"audit_sequence": row.sequence, **row.details},
    )


def _manifest(trace: str, row: FirstTold) -> Step:
    return Step(
        at=row.at,
        what=f"manifest.{row.role}",
        who="controller",
        subject=row.hardware_class,
        because=f"manifest {row.counter} of the class names it as {_ROLES[row.role]}",
        span=span_id(trace, f"manifest {row.hardware_class} {row.role}"),
        details={"counter": row.counter},
    )


_ROLES = {"offer": "an offer", "current": "what all run"}


def _event(trace: str, row: EventRow) -> Step:
    content = row.content
    details: dict[str, Any] = {
        "event_id": row.event_id,
        "sequence": row.sequence,
        "epoch": row.epoch,
    }
    evidence = content.get("evidence") or {}
    more = {
        "code": content.get("code"),
        "serving_version": content.get("serving_version"),
        RECOVERY_SECONDS: evidence.get(RECOVERY_SECONDS),
    }
    details |= {name: value for name, value in more.items() if value}
    return Step(
        at=row.received_at,
        what=f"device.{row.kind}",
        who=row.device,
        subject=row.device,
        because=str(content.get("because") or ""),
        span=span_id(trace, f"event {row.device} {row.event_id}"),
        details=details,
        device_at=_instant(row.observed_at_ms),
    )


def _instant(milliseconds: int) -> datetime | None:
    if not 0 < milliseconds <= _YEAR_MAX_MS:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
