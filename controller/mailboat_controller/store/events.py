"""State events as devices told them: append-only, each sequence of an epoch once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from mailboat_controller.store import tables
from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.plain_json import plain
from mailboat_schemas.events import Event

RETRY_EPOCH_MAX = (1 << 31) - 1  # what the column holds; a device may say anything
OBSERVED_MS_MAX = 1 << 53  # a device's clock may say anything; a column may not hold everything
COMPARED_ROWS_MAX = 1000  # what a broker may deliver again is newer

_events = tables.events


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """``observed_at_ms`` is the device's clock, in milliseconds since 1970, and decides nothing."""

    id: int
    device: str
    epoch: str
    sequence: int
    event_id: str
    kind: str
    model: str | None
    version: str | None
    digest: str | None
    retry_epoch: int
    content: Mapping[str, Any]
    observed_at_ms: int
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadRow:
    """A row of a batch that this program cannot read: of a newer agent, or wrong.

    ``event_id`` is empty where the row has none.
    """

    sequence: int
    event_id: str
    content: Any
    problem: str


def append(
    tx: Connection,
    device: str,
    epoch: str,
    events: Sequence[Event | UnreadRow],
    received_at: datetime,
) -> None:
    write(tx, rows_of(device, epoch, events, received_at))


def rows_of(
    device: str, epoch: str, events: Sequence[Event | UnreadRow], received_at: datetime
) -> list[dict[str, Any]]:
    """For `write`, which takes those of many devices at once."""
    origin = {"device": device, "epoch": epoch, "received_at": to_ms(received_at)}
    return [
        {
            **origin,
            "sequence": event.sequence,
            **(_read(event) if isinstance(event, Event) else _unread(event, epoch)),
        }
        for event in events
    ]


def write(tx: Connection, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        tx.execute(insert(_events), rows)


def unread(tx: Connection, *, after: int = 0, limit: int = 500) -> tuple[EventRow, ...]:
    """Events kept as they came, in the order they were stored, those with an id above ``after``."""
    c = _events.c
    query = select(_events).where(c.kind == tables.UNKNOWN_KIND, c.id > after)
    return tuple(_row(row) for row in tx.execute(query.order_by(c.id).limit(limit)))


def replace_unread(tx: Connection, row_id: int, event: Event) -> None:
    """What an unread row turned out to say."""
    tx.execute(update(_events).where(_events.c.id == row_id).values(**_read(event)))


def already_told(tx: Connection, device: str, event_ids: Iterable[str]) -> frozenset[str]:
    """Which of these a device has told before, in whatever epoch."""
    c = _events.c
    rows = tx.execute(select(c.event_id).where(c.device == device, c.event_id.in_(list(event_ids))))
    return frozenset(rows.scalars())


def identity(event: Event) -> tuple[str, int]:
    """What is the same in every repetition of an event, and hardly in another: its id and the
    device's time, as stored."""
    return event.event_id, _observed_ms(event)


def identities(tx: Connection, device: str, epoch: str) -> dict[int, tuple[str, int]]:
    """By sequence, of the device's newest `COMPARED_ROWS_MAX` events."""
    c = _events.c
    newest = (
        select(c.epoch, c.sequence, c.event_id, c.observed_at)
        .where(c.device == device, c.kind != tables.UNKNOWN_KIND)
        .order_by(c.id.desc())
        .limit(COMPARED_ROWS_MAX)
        .subquery()
    )
    rows = tx.execute(select(newest).where(newest.c.epoch == epoch))
    return {row.sequence: (row.event_id, row.observed_at) for row in rows}


def page(
    tx: Connection, device: str | None = None, *, after: int = 0, limit: int = 100
) -> tuple[EventRow, ...]:
    """Events in the order they were stored, those with an id above ``after``."""
    query = select(_events).where(_events.c.id > after)
    if device is not None:
        query = query.where(_events.c.device == device)
    return tuple(_row(row) for row in tx.execute(query.order_by(_events.c.id).limit(limit)))


def count(tx: Connection) -> int:
    return tx.execute(select(func.count()).select_from(_events)).scalar_one()


def _read(event: Event) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "kind": event.kind.value,
        "model": event.model,
        "version": event.version,
        "digest": event.digest,
        "retry_epoch": min(event.retry_epoch, RETRY_EPOCH_MAX),
        "content": plain(event.model_dump(mode="python")),
        "observed_at": _observed_ms(event),
    }


def _observed_ms(event: Event) -> int:
    return max(0, min(event.observed_at, OBSERVED_MS_MAX))


def _unread(row: UnreadRow, epoch: str) -> dict[str, Any]:
    content = plain(row.content)
    return {
        "event_id": row.event_id or f"unread:{epoch}:{row.sequence}",
        "kind": tables.UNKNOWN_KIND,
        "model": None,
        "version": None,
        "digest": None,
        "retry_epoch": 0,
        "content": content if isinstance(content, dict) else {"row": content},
        "observed_at": 0,
    }


def _row(row: Row[Any]) -> EventRow:
    content = dict(row._mapping)
    observed_at_ms, received_at = content.pop("observed_at"), content.pop("received_at")
    return EventRow(**content, observed_at_ms=observed_at_ms, received_at=from_ms(received_at))
