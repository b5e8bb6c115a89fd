"""What is told to webhooks: what waits, and what became of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, case, delete, func, not_, or_, select, update

from mailboat_controller.store import webhook_tables, webhooks
from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.upsert import upsert

# That wait, of one webhook: a week of a busy fleet. Beyond it the oldest are given up.
WAITING_MAX = 10_000
# By these a receiver says no to one event; anything else but 2xx says that he is not to be had.
REFUSED = (400, 409, 413, 415, 422)

_table = webhook_tables.webhook_deliveries


class DeliveryState(StrEnum):
    WAITING = "waiting"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRow:
    webhook: str
    event: str
    number: int  # of its entry in the audit log
    type: str
    body: bytes
    state: DeliveryState
    attempts: int
    next_attempt_at: datetime
    status: int | None
    problem: str
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Of one webhook. ``given_up`` counts those that are still listed."""

    waiting: int = 0
    given_up: int = 0
    oldest: datetime | None = None  # since when it waits


def queue(
    tx: Connection, webhook: str, event: str, number: int, kind: str, body: bytes, now: datetime
) -> None:
    """To be told; once, however often it is queued. Of too many the oldest are given up.

    While the receiver is away it waits as long as those before it.
    """
    hook = webhooks.find(tx, webhook)
    held_until = _held_until(tx, webhook) if hook is not None and hook.failures else None
    tx.execute(
        upsert(tx, _table)
        .values(
            webhook=webhook,
            event=event,
            number=number,
            type=kind,
            body=body,
            state=DeliveryState.WAITING.value,
            attempts=0,
            next_attempt_at=max(to_ms(now), held_until or 0),
            problem="",
            created_at=to_ms(now),
        )
        .on_conflict_do_nothing()
    )
    c = _table.c
    waiting = (c.webhook == webhook, c.state == DeliveryState.WAITING.value)
    count = tx.execute(select(func.count()).select_from(_table).where(*waiting))
    over = count.scalar_one() - WAITING_MAX
    if over > 0:
        oldest = select(c.event).where(*waiting).order_by(c.number).limit(over)
        for each in list(tx.execute(oldest).scalars()):
            end(tx, webhook, each, DeliveryState.GIVEN_UP, None, "too many wait", now)


def has_due(tx: Connection, webhook: str, now: datetime) -> bool:
    c = _table.c
    those = (c.webhook == webhook, c.state == DeliveryState.WAITING.value)
    found = select(c.event).where(*those, c.next_attempt_at <= to_ms(now)).limit(1)
    return tx.execute(found).first() is not None


def due(tx: Connection, webhook: str, now: datetime, limit: int) -> tuple[DeliveryRow, ...]:
    """Whose time has come, the oldest first; those last that the receiver has refused, so that one
    of them keeps nothing else waiting."""
    c = _table.c
    rows = tx.execute(
        select(_table)
        .where(
            c.webhook == webhook,
            c.state == DeliveryState.WAITING.value,
            c.next_attempt_at <= to_ms(now),
        )
        .order_by(case((c.status.in_(REFUSED), 1), else_=0), c.number)
        .limit(limit)
    )
    return tuple(map(_delivery, rows))


def deliveries(
    tx: Connection, webhook: str, limit: int, *, before: int | None = None
) -> tuple[DeliveryRow, ...]:
    """The newest first; those with a number below ``before``."""
    c = _table.c
    query = select(_table).where(c.webhook == webhook)
    if before is not None:
        query = query.where(c.number < before)
    return tuple(map(_delivery, tx.execute(query.order_by(c.number.desc()).limit(limit))))


def postpone(
    tx: Connection,
    webhook: str,
    event: str,
    *,
    status: int | None,
    problem: str,
    next_attempt_at: datetime,
) -> None:
    """An attempt failed; another one is made later."""
    c = _table.c
    tx.execute(
        update(_table)
        .where(c.webhook == webhook, c.event == event)
        .values(
            attempts=c.attempts + 1,
            status=status,
            problem=problem,
            next_attempt_at=to_ms(next_attempt_at),
        )
    )


def end(
    tx: Connection,
    webhook: str,
    event: str,
    state: DeliveryState,
    status: int | None,
    problem: str,
    now: datetime,
) -> None:
    """The last attempt is made."""
    c = _table.c
    tx.execute(
        update(_table)
        .where(c.webhook == webhook, c.event == event)
        .values(
            attempts=c.attempts + 1,
            state=state.value,
            status=status,
            problem=problem,
            ended_at=to_ms(now),
        )
    )


def send_soon(tx: Connection, webhook: str, now: datetime) -> None:
    """Whatever waits is tried again at once: somebody has mended the receiver."""
    c = _table.c
    tx.execute(
        update(_table)
        .where(c.webhook == webhook, c.state == DeliveryState.WAITING.value)
        .values(next_attempt_at=to_ms(now))
    )


def hold_back(tx: Connection, webhook: str, until: datetime) -> None:
    """The receiver is away: nothing is sent there before, and then in order."""
    c = _table.c
    tx.execute(
        update(_table)
        .where(
            c.webhook == webhook,
            c.state == DeliveryState.WAITING.value,
            c.next_attempt_at < to_ms(until),
        )
        .values(next_attempt_at=to_ms(until))
    )


def give_up_older(tx: Connection, webhook: str, than: datetime, now: datetime) -> None:
    """Of what waits."""
    c = _table.c
    waits = (c.webhook == webhook, c.state == DeliveryState.WAITING.value)
    lost = {"state": DeliveryState.GIVEN_UP.value, "ended_at": to_ms(now)}
    lost |= {"problem": "the receiver was away for too long"}
    tx.execute(update(_table).where(*waits, c.created_at <= to_ms(than)).values(**lost))


def forget_ended(tx: Connection, older_than: datetime) -> None:
    c = _table.c
    tx.execute(
        delete(_table).where(
            c.state != DeliveryState.WAITING.value, c.created_at < to_ms(older_than)
        )
    )


def count_waiting(tx: Connection) -> Mapping[str, int]:
    """By webhook."""
    c = _table.c
    rows = tx.execute(
        select(c.webhook, func.count().label("waiting"))
        .where(c.state == DeliveryState.WAITING.value)
        .group_by(c.webhook)
    )
    return {row.webhook: row.waiting for row in rows}


def standings(tx: Connection) -> Mapping[str, Standing]:
    """By webhook."""
    c = _table.c
    waits = c.state == DeliveryState.WAITING.value
    rows = tx.execute(
        select(
            c.webhook,
            func.sum(case((waits, 1), else_=0)).label("waiting"),
            func.sum(case((c.state == DeliveryState.GIVEN_UP.value, 1), else_=0)).label("lost"),
            func.min(case((waits, c.created_at))).label("oldest"),
        ).group_by(c.webhook)
    )
    return {
        row.webhook: Standing(
            waiting=int(row.waiting),
            given_up=int(row.lost),
            oldest=None if row.oldest is None else from_ms(row.oldest),
        )
        for row in rows
    }


def _held_until(tx: Connection, webhook: str) -> int | None:
    """When those are tried again that wait for the receiver to come back; None: none does."""
    c = _table.c
    waits = (c.webhook == webhook, c.state == DeliveryState.WAITING.value)
    refused = c.status.in_(REFUSED)
    return tx.execute(
        select(func.min(c.next_attempt_at)).where(*waits, or_(c.status.is_(None), not_(refused)))
    ).scalar()


def _delivery(row: Row[Any]) -> DeliveryRow:
    content = dict(row._mapping)
    ended = content["ended_at"]
    content |= {
        "state": DeliveryState(content["state"]),
        "next_attempt_at": from_ms(content["next_attempt_at"]),
        "created_at": from_ms(content["created_at"]),
        "ended_at": None if ended is None else from_ms(ended),
    }
    return DeliveryRow(**content)
