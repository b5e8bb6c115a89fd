"""Rollback drills that were ordered, and what devices have told of theirs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Row, case, delete, func, insert, select, update

from mailboat_controller.store import tables
from mailboat_controller.store.drill_tables import drill_orders, drill_results
from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.upsert import upsert
from mailboat_schemas.device_orders import Drill
from mailboat_schemas.drills import ORDER, RETURN_MS, DrillOutcome
from mailboat_schemas.events import Event, EventKind

MODELS_MAX = 64  # of one device; it may name anything
RETURN_MS_MAX = 86_400_000.0
ORDER_CHARS_MAX = 32
OUTCOMES = {
    EventKind.DRILL_PASSED: DrillOutcome.PASSED,
    EventKind.DRILL_FAILED: DrillOutcome.FAILED,
    EventKind.DRILL_SKIPPED: DrillOutcome.SKIPPED,
}
_o, _r = drill_orders.c, drill_results.c


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillOrderRow:
    order: str
    device: str
    model: str  # empty: every model
    by: str
    reason: str
    at: datetime
    expires_at: datetime
    answered_at: datetime | None = None

    @property
    def drill(self) -> Drill:
        return Drill(
            order=self.order,
            model=self.model or None,
            by=self.by,
            reason=self.reason,
            expires=int(self.expires_at.timestamp()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillResultRow:
    device: str
    model: str
    order: str
    outcome: str
    code: str
    because: str
    version: str | None
    serving_version: str | None
    told_at: datetime
    passed_at: datetime | None
    return_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillCount:
    """Of a class and a model: devices that told of a drill, and how the newest ended."""

    hardware_class: str
    model: str
    passed_lately: int
    told: int
    newest: dict[str, int]
    oldest_passed_at: datetime | None
    return_p90_ms: float | None


# --- orders --------------------------------------------------------------------------------------


def put(tx: Connection, row: DrillOrderRow) -> None:
    content = {name: getattr(row, name) for name in DrillOrderRow.__slots__}
    content |= {"at": to_ms(row.at), "expires_at": to_ms(row.expires_at), "answered_at": None}
    tx.execute(insert(drill_orders).values(**content))


def standing(tx: Connection, device: str, now: datetime) -> tuple[DrillOrderRow, ...]:
    """Those that wait for the device, oldest first."""
    query = select(drill_orders).where(
        _o.device == device, _o.answered_at.is_(None), _o.expires_at > to_ms(now)
    )
    return tuple(map(_order, tx.execute(query.order_by(_o.at, _o.order))))


def orders_of(tx: Connection, device: str) -> tuple[DrillOrderRow, ...]:
    """Answered ones too, until they expire; newest first."""
    query = select(drill_orders).where(_o.device == device)
    return tuple(map(_order, tx.execute(query.order_by(_o.at.desc(), _o.order))))


def devices_waiting(tx: Connection, now: datetime) -> frozenset[str]:
    query = select(_o.device).where(_o.answered_at.is_(None), _o.expires_at > to_ms(now))
    return frozenset(tx.execute(query.distinct()).scalars())


def cancel(tx: Connection, device: str) -> int:
    """How many orders that waited are no more."""
    these = delete(drill_orders).where(_o.device == device, _o.answered_at.is_(None))
    return tx.execute(these).rowcount


def forget_expired(tx: Connection, now: datetime) -> int:
    return tx.execute(delete(drill_orders).where(_o.expires_at < to_ms(now))).rowcount


def _order(row: Row[tuple[object, ...]]) -> DrillOrderRow:
    content = dict(row._mapping)
    answered_at = content["answered_at"]
    return DrillOrderRow(
        **content
        | {
            "at": from_ms(content["at"]),
            "expires_at": from_ms(content["expires_at"]),
            "answered_at": None if answered_at is None else from_ms(answered_at),
        }
    )


# --- results -------------------------------------------------------------------------------------


def fold_all(tx: Connection, told: Sequence[tuple[str, Event]], now: datetime) -> None:
    """Take what devices tell, each with its device's name, in the order in which they tell it."""
    newest: dict[tuple[str, str], list[Event]] = {}
    for device, event in told:
        if event.kind in OUTCOMES and event.model is not None:
            newest.setdefault((device, event.model), []).append(event)
    # In one order, so that no two who write the same rows wait for each other.
    for device, model in sorted(newest):
        if not _has_room(tx, device, model):
            continue
        for event in newest[device, model]:
            _write(tx, device, model, event, now)


def _has_room(tx: Connection, device: str, model: str) -> bool:
    there = set(tx.execute(select(_r.model).where(_r.device == device)).scalars())
    return model in there or len(there) < MODELS_MAX


def _write(tx: Connection, device: str, model: str, event: Event, now: datetime) -> None:
    outcome = OUTCOMES[event.kind]
    order = str(event.evidence.get(ORDER, ""))[:ORDER_CHARS_MAX]
    content: dict[str, object] = {
        "order": order,
        "outcome": str(outcome),
        "code": event.code,
        "because": event.because,
        "version": event.version,
        "serving_version": event.serving_version,
        "told_at": to_ms(now),
    }
    if outcome is DrillOutcome.PASSED:
        content |= {"passed_at": to_ms(now), "return_ms": _return_ms(event)}
    row = upsert(tx, drill_results).values(device=device, model=model, **content)
    key = [_r.device, _r.model]
    tx.execute(row.on_conflict_do_update(index_elements=key, set_=content))
    answered = update(drill_orders).where(
        _o.order == order, _o.device == device, _o.model == model, _o.answered_at.is_(None)
    )
    tx.execute(answered.values(answered_at=to_ms(now)))


def _return_ms(event: Event) -> float | None:
    found = event.evidence.get(RETURN_MS)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return min(max(0.0, float(found)), RETURN_MS_MAX)


def results(
    tx: Connection,
    *,
    device: str | None = None,
    outcome: str | None = None,
    after: tuple[str, str] = ("", ""),
    limit: int = 100,
) -> tuple[DrillResultRow, ...]:
    """By device and model, those after ``after``."""
    beyond = (_r.device > after[0]) | ((_r.device == after[0]) & (_r.model > after[1]))
    query = select(drill_results).where(beyond)
    if device is not None:
        query = query.where(_r.device == device)
    if outcome is not None:
        query = query.where(_r.outcome == outcome)
    return tuple(map(_result, tx.execute(query.order_by(_r.device, _r.model).limit(limit))))


def _result(row: Row[tuple[object, ...]]) -> DrillResultRow:
    content = dict(row._mapping)
    passed_at = content["passed_at"]
    return DrillResultRow(
        **content
        | {
            "told_at": from_ms(content["told_at"]),
            "passed_at": None if passed_at is None else from_ms(passed_at),
        }
    )


def counts(tx: Connection, now: datetime, lately: timedelta) -> tuple[DrillCount, ...]:
    """By class and model, of devices that are not revoked."""
    d = tables.devices.c
    since = to_ms(now - lately)
    query = (
        select(
            d.hardware_class,
            _r.model,
            func.count().label("told"),
            func.sum(case((_r.passed_at >= since, 1), else_=0)).label("lately"),
            *(
                func.sum(case((_r.outcome == str(each), 1), else_=0)).label(str(each))
                for each in DrillOutcome
            ),
            func.min(_r.passed_at).label("oldest"),
            func.count(_r.return_ms).label("timed"),
        )
        .join(tables.devices, d.device == _r.device)
        .where(d.revoked.is_(False))
        .group_by(d.hardware_class, _r.model)
        .order_by(d.hardware_class, _r.model)
    )
    return tuple(
        DrillCount(
            hardware_class=row.hardware_class,
            model=row.model,
            told=row.told,
            passed_lately=int(row.lately),
            newest={str(each): int(row._mapping[str(each)]) for each in DrillOutcome},
            oldest_passed_at=None if row.oldest is None else from_ms(row.oldest),
            return_p90_ms=_return_p90_ms(tx, row.hardware_class, row.model, int(row.timed)),
        )
        for row in tx.execute(query)
    )


def _return_p90_ms(tx: Connection, hardware_class: str, model: str, timed: int) -> float | None:
    """Nearest rank: a value that was measured."""
    if not timed:
        return None
    d = tables.devices.c
    query = (
        select(_r.return_ms)
        .join(tables.devices, d.device == _r.device)
        .where(d.revoked.is_(False), d.hardware_class == hardware_class, _r.model == model)
        .where(_r.return_ms.is_not(None))
        .order_by(_r.return_ms)
        .offset(math.ceil(0.9 * timed) - 1)
        .limit(1)
    )
    return tx.execute(query).scalar()
