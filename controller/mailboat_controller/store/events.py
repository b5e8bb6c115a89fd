"""State events as devices told them: append-only, each sequence of an epoch once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select

from mailboat_controller.store import tables
from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.plain_json import plain
from mailboat_schemas.events import Event

OBSERVED_MS_MAX = 1 << 53  # a device's clock may say anything; a column may not hold everything

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


def append(
    tx: Connection, device: str, epoch: str, events: Sequence[Event], received_at: datetime
) -> None:
    if not events:
        return
    tx.execute(
        insert(_events),
        [
            {
                "device": device,
                "epoch": epoch,
                "sequence": event.sequence,
                "event_id": event.event_id,
                "kind": event.kind.value,
                "model": event.model,
                "version": event.version,
                "digest": event.digest,
                "retry_epoch": event.retry_epoch,
                "content": plain(event.model_dump(mode="python")),
                "observed_at": max(0, min(event.observed_at, OBSERVED_MS_MAX)),
                "received_at": to_ms(received_at),
            }
            for event in events
        ],
    )


def already_told(tx: Connection, device: str, event_ids: Iterable[str]) -> frozenset[str]:
    """Which of these a device has told before, in whatever epoch."""
    c = _events.c
    rows = tx.execute(select(c.event_id).where(c.device == device, c.event_id.in_(list(event_ids))))
    return frozenset(rows.scalars())


def page(
    tx: Connection, device: str | None = None, *, after: int = 0, limit: int = 100
) -> tuple[EventRow, ...]:
    """Events in the order they were stored, those with an id above ``after``."""
    query = select(_events).where(_events.c.id > after)
    if device is not None:
        query = query.where(_events.c.device == device)
    rows = tx.execute(query.order_by(_events.c.id).limit(limit))
    return tuple(
        EventRow(
            **{
                name: value
                for name, value in row._mapping.items()
                if name not in {"observed_at", "received_at"}
            },
            observed_at_ms=row.observed_at,
            received_at=from_ms(row.received_at),
        )
        for row in rows
    )


def count(tx: Connection) -> int:
    return tx.execute(select(func.count()).select_from(_events)).scalar_one()
