"""What devices told of one release, for its trace; each query is bounded."""

from typing import Any

from sqlalchemy import Connection, Row, case, func, select

from mailboat_controller.rollout.members import Outcome
from mailboat_controller.store import tables
from mailboat_controller.store.events import EventRow
from mailboat_controller.store.instants import from_ms

EVENTS_PER_DEVICE_MAX = 100  # of one release

_events, _outcomes = tables.events, tables.outcomes
_WORST_FIRST = (Outcome.FAILED, Outcome.REFUSED, Outcome.RETURNED, Outcome.EXPOSED, Outcome.OK)


def count_devices(tx: Connection, digest: str) -> int:
    """That told of it."""
    c = _outcomes.c
    query = select(func.count(func.distinct(c.device))).where(c.digest == digest)
    return tx.execute(query).scalar_one()


def devices_worst_first(tx: Connection, digest: str, limit: int) -> tuple[str, ...]:
    """Those that failed it first: a trace is read when something went wrong."""
    c = _outcomes.c
    badness = case(
        *((c.outcome == each.value, place) for place, each in enumerate(_WORST_FIRST)),
        else_=len(_WORST_FIRST),
    )
    rows = tx.execute(
        select(c.device)
        .where(c.digest == digest)
        .group_by(c.device)
        .order_by(func.min(badness), c.device)
        .limit(limit)
    )
    return tuple(rows.scalars())


def events_of(tx: Connection, device: str, digest: str) -> tuple[EventRow, ...]:
    """The newest of one device about one release, oldest first."""
    c = _events.c
    rows = tx.execute(
        select(_events)
        .where(c.device == device, c.digest == digest)
        .order_by(c.id.desc())
        .limit(EVENTS_PER_DEVICE_MAX)
    ).fetchall()
    return tuple(_row(row) for row in reversed(rows))


def digest_of_event(tx: Connection, device: str, event_id: str) -> str | None:
    """Of the release that an event is about."""
    c = _events.c
    found = select(c.digest).where(c.device == device, c.event_id == event_id)
    return tx.execute(found.order_by(c.id.desc()).limit(1)).scalar()


def _row(row: Row[Any]) -> EventRow:
    content = dict(row._mapping)
    observed_at_ms, received_at = content.pop("observed_at"), content.pop("received_at")
    return EventRow(**content, observed_at_ms=observed_at_ms, received_at=from_ms(received_at))
