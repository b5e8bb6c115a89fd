"""State events as devices told them: append-only, each sequence of an epoch once."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from mailboat_controller.store import tables
from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.many_rows import ManyRows
from mailboat_controller.store.plain_json import INTEGER_EXACT_MAX, packed, plain
from mailboat_schemas.events import Event

RETRY_EPOCH_MAX = (1 << 31) - 1  # what the column holds; a device may say anything
OBSERVED_MS_MAX = 1 << 53  # a device's clock may say anything; a column may not hold everything
COMPARED_ROWS_MAX = 1000  # what a broker may deliver again is newer

# What an event says of itself, in the order of its row.
_TOLD = (
    "sequence",
    "event_id",
    "kind",
    "model",
    "version",
    "digest",
    "retry_epoch",
    "content",
    "observed_at",
)

_events = tables.events
_INSERT = ManyRows.into(_events, ("device", "epoch", *_TOLD, "received_at"))
_ESCAPED = "\\u"  # in JSON, before what is not printable ASCII


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
) -> list[tuple[Any, ...]]:
    """For `write`, which takes those of many devices at once."""
    origin, end = (device, epoch), (to_ms(received_at),)
    return [
        origin + (_read(event) if isinstance(event, Event) else _unread(event, epoch)) + end
        for event in events
    ]


def write(tx: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    _INSERT.run(tx, rows)


def unread(tx: Connection, *, after: int = 0, limit: int = 500) -> tuple[EventRow, ...]:
    """Events kept as they came, in the order they were stored, those with an id above ``after``."""
    c = _events.c
    query = select(_events).where(c.kind == tables.UNKNOWN_KIND, c.id > after)
    return tuple(_row(row) for row in tx.execute(query.order_by(c.id).limit(limit)))


def replace_unread(tx: Connection, row_id: int, event: Event) -> None:
    """What an unread row turned out to say."""
    told = dict(zip(_TOLD, _read(event), strict=True))
    told["content"] = json.loads(told["content"])
    del told["sequence"]  # what it is found by is not its word any more
    tx.execute(update(_events).where(_events.c.id == row_id).values(**told))


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


def newest_page(
    tx: Connection, device: str, *, before: int | None = None, limit: int = 100
) -> tuple[EventRow, ...]:
    """A device's newest events, those with an id below ``before``; the oldest of them first."""
    query = select(_events).where(_events.c.device == device)
    if before is not None:
        query = query.where(_events.c.id < before)
    rows = tx.execute(query.order_by(_events.c.id.desc()).limit(limit)).fetchall()
    return tuple(_row(row) for row in reversed(rows))


def count(tx: Connection) -> int:
    return tx.execute(select(func.count()).select_from(_events)).scalar_one()


def _read(event: Event) -> tuple[Any, ...]:
    """The values of `_TOLD`."""
    return (
        event.sequence,
        event.event_id,
        event.kind.value,
        event.model,
        event.version,
        event.digest,
        min(event.retry_epoch, RETRY_EPOCH_MAX),
        _content(event),
        _observed_ms(event),
    )


def _content(event: Event) -> str:
    """``packed(plain(…))`` of all its fields, which for nearly every event is what stands there."""
    told = vars(event)  # dumping the model costs as much as all the rest
    if event.evidence:
        told = {**told, "evidence": plain(event.evidence, 1)}
    if max(event.sequence, abs(event.observed_at), event.retry_epoch) <= INTEGER_EXACT_MAX:
        text = packed(told)
        if _ESCAPED not in text:
            return text
    return packed({name: plain(value, 1) for name, value in told.items()})


def _observed_ms(event: Event) -> int:
    return max(0, min(event.observed_at, OBSERVED_MS_MAX))


def _unread(row: UnreadRow, epoch: str) -> tuple[Any, ...]:
    """The values of `_TOLD`."""
    content = plain(row.content)
    return (
        row.sequence,
        row.event_id or f"unread:{epoch}:{row.sequence}",
        tables.UNKNOWN_KIND,
        None,
        None,
        None,
        0,
        packed(content if isinstance(content, dict) else {"row": content}),
        0,
    )


def _row(row: Row[Any]) -> EventRow:
    content = dict(row._mapping)
    observed_at_ms, received_at = content.pop("observed_at"), content.pop("received_at")
    return EventRow(**content, observed_at_ms=observed_at_ms, received_at=from_ms(received_at))
