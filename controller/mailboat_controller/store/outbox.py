"""Messages decided on but not yet with the broker, written in the transaction of the decision."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, func, insert, select

from mailboat_controller.store import tables
from mailboat_controller.store.instants import to_ms

# Retained messages replace each other, so only replies to CI can pile up while the broker is away.
MESSAGES_MAX = 10_000

_outbox = tables.outbox


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow:
    id: int
    topic: str
    payload: bytes
    qos: int
    retain: bool
    correlation_data: bytes | None


def put(
    tx: Connection,
    *,
    topic: str,
    payload: bytes,
    qos: int,
    retain: bool,
    now: datetime,
    correlation_data: bytes | None = None,
) -> bool:
    """Queue a message; False when it was dropped because too many wait.

    A retained message replaces an older one for its topic that nobody has seen: the newest
    manifest wins anyway, and older ones would only be refused by devices.
    """
    if retain:
        tx.execute(delete(_outbox).where(_outbox.c.topic == topic, _outbox.c.retain.is_(True)))
    elif count(tx) >= MESSAGES_MAX:
        return False
    tx.execute(
        insert(_outbox).values(
            topic=topic,
            payload=payload,
            qos=qos,
            retain=retain,
            correlation_data=correlation_data,
            created_at=to_ms(now),
        )
    )
    return True


def pending(tx: Connection, limit: int) -> tuple[OutboxRow, ...]:
    """The oldest first."""
    c = _outbox.c
    rows = tx.execute(
        select(c.id, c.topic, c.payload, c.qos, c.retain, c.correlation_data)
        .order_by(c.id)
        .limit(limit)
    )
    return tuple(OutboxRow(**row._mapping) for row in rows)


def remove(tx: Connection, ids: Iterable[int]) -> None:
    """The broker has them."""
    tx.execute(delete(_outbox).where(_outbox.c.id.in_(list(ids))))


def count(tx: Connection) -> int:
    return tx.execute(select(func.count()).select_from(_outbox)).scalar_one()
