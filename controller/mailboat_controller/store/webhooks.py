"""Webhooks, and what waits to be told to them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.upsert import upsert
from mailboat_controller.store.webhook_tables import audit_readers, webhook_deliveries, webhooks
from mailboat_schemas.errors import Conflict, NotFound

WEBHOOKS_MAX = 50
# That wait, of one webhook: a week of a busy fleet. Beyond it the oldest are given up.
WAITING_MAX = 10_000


class State(StrEnum):
    ACTIVE = "active"
    DISABLED = "disabled"


class DeliveryState(StrEnum):
    WAITING = "waiting"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookRow:
    name: str
    url: str
    types: tuple[str, ...]  # empty: all
    models: tuple[str, ...]  # empty: all
    state: State
    because: str
    failures: int  # attempts in a row that failed
    failing_since: datetime | None
    created_by: str
    created_at: datetime


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


def add(tx: Connection, row: WebhookRow) -> None:
    """
    Raises:
        Conflict: there is one of this name, or there are too many.
    """
    if find(tx, row.name) is not None:
        raise Conflict(
            f"There is a webhook {row.name} already.",
            next_step="remove it first, or take another name.",
        )
    if len(every(tx)) >= WEBHOOKS_MAX:
        raise Conflict(
            f"There are {WEBHOOKS_MAX} webhooks already.",
            next_step="remove one; one receiver may pass events on to many.",
        )
    content = {name: getattr(row, name) for name in WebhookRow.__slots__}
    content |= {
        "types": list(row.types),
        "models": list(row.models),
        "failing_since": None,
        "created_at": to_ms(row.created_at),
    }
    tx.execute(insert(webhooks).values(**content))


def remove(tx: Connection, name: str) -> None:
    """With everything that waits for it."""
    get(tx, name)
    tx.execute(delete(webhook_deliveries).where(webhook_deliveries.c.webhook == name))
    tx.execute(delete(webhooks).where(webhooks.c.name == name))


def get(tx: Connection, name: str) -> WebhookRow:
    """
    Raises:
        NotFound: there is none.
    """
    found = find(tx, name)
    if found is None:
        raise NotFound(f"There is no webhook {name}.", next_step="list them: mailboat webhook list")
    return found


def find(tx: Connection, name: str) -> WebhookRow | None:
    row = tx.execute(select(webhooks).where(webhooks.c.name == name)).first()
    return None if row is None else _webhook(row)


def every(tx: Connection) -> tuple[WebhookRow, ...]:
    return tuple(map(_webhook, tx.execute(select(webhooks).order_by(webhooks.c.name))))


def set_state(tx: Connection, name: str, state: State, because: str) -> None:
    """Its count of failures begins anew."""
    tx.execute(
        update(webhooks)
        .where(webhooks.c.name == name)
        .values(state=state.value, because=because, failures=0, failing_since=None)
    )


def count_failure(tx: Connection, name: str, now: datetime) -> WebhookRow | None:
    """One more attempt in a row that failed; None if it was removed meanwhile."""
    row = find(tx, name)
    if row is None:
        return None
    since = row.failing_since or now
    tx.execute(
        update(webhooks)
        .where(webhooks.c.name == name)
        .values(failures=row.failures + 1, failing_since=to_ms(since))
    )
    return find(tx, name)


def count_success(tx: Connection, name: str) -> None:
    c = webhooks.c
    tx.execute(
        update(webhooks)
        .where(c.name == name, c.failures > 0)
        .values(failures=0, failing_since=None)
    )


# --- deliveries ----------------------------------------------------------------------------------


def queue(
    tx: Connection, webhook: str, event: str, number: int, kind: str, body: bytes, now: datetime
) -> None:
    """To be told; once, however often it is queued. Of too many the oldest are given up."""
    tx.execute(
        upsert(tx, webhook_deliveries)
        .values(
            webhook=webhook,
            event=event,
            number=number,
            type=kind,
            body=body,
            state=DeliveryState.WAITING.value,
            attempts=0,
            next_attempt_at=to_ms(now),
            problem="",
            created_at=to_ms(now),
        )
        .on_conflict_do_nothing()
    )
    c = webhook_deliveries.c
    waiting = (c.webhook == webhook, c.state == DeliveryState.WAITING.value)
    count = tx.execute(select(func.count()).select_from(webhook_deliveries).where(*waiting))
    over = count.scalar_one() - WAITING_MAX
    if over > 0:
        oldest = select(c.event).where(*waiting).order_by(c.number).limit(over)
        for each in list(tx.execute(oldest).scalars()):
            end(tx, webhook, each, DeliveryState.GIVEN_UP, None, "too many wait", now)


def due(tx: Connection, webhook: str, now: datetime, limit: int) -> tuple[DeliveryRow, ...]:
    """Whose time has come, the oldest first."""
    c = webhook_deliveries.c
    rows = tx.execute(
        select(webhook_deliveries)
        .where(
            c.webhook == webhook,
            c.state == DeliveryState.WAITING.value,
            c.next_attempt_at <= to_ms(now),
        )
        .order_by(c.number)
        .limit(limit)
    )
    return tuple(map(_delivery, rows))


def deliveries(tx: Connection, webhook: str, limit: int) -> tuple[DeliveryRow, ...]:
    """The newest first."""
    c = webhook_deliveries.c
    query = select(webhook_deliveries).where(c.webhook == webhook)
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
    c = webhook_deliveries.c
    tx.execute(
        update(webhook_deliveries)
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
    c = webhook_deliveries.c
    tx.execute(
        update(webhook_deliveries)
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
    c = webhook_deliveries.c
    tx.execute(
        update(webhook_deliveries)
        .where(c.webhook == webhook, c.state == DeliveryState.WAITING.value)
        .values(next_attempt_at=to_ms(now))
    )


def forget_ended(tx: Connection, older_than: datetime) -> None:
    c = webhook_deliveries.c
    tx.execute(
        delete(webhook_deliveries).where(
            c.state != DeliveryState.WAITING.value, c.created_at < to_ms(older_than)
        )
    )


def count_waiting(tx: Connection) -> Mapping[str, int]:
    """By webhook."""
    c = webhook_deliveries.c
    rows = tx.execute(
        select(c.webhook, func.count().label("waiting"))
        .where(c.state == DeliveryState.WAITING.value)
        .group_by(c.webhook)
    )
    return {row.webhook: row.waiting for row in rows}


# --- how far a reader of the audit log has come ---------------------------------------------------


def reached(tx: Connection, reader: str) -> int | None:
    """The last entry it has dealt with; None: it is new."""
    c = audit_readers.c
    return tx.execute(select(c.sequence).where(c.name == reader)).scalar()


def set_reached(tx: Connection, reader: str, sequence: int) -> None:
    tx.execute(
        upsert(tx, audit_readers)
        .values(name=reader, sequence=sequence)
        .on_conflict_do_update(index_elements=["name"], set_={"sequence": sequence})
    )


def _webhook(row: Row[Any]) -> WebhookRow:
    content = dict(row._mapping)
    since = content["failing_since"]
    content |= {
        "types": tuple(content["types"]),
        "models": tuple(content["models"]),
        "state": State(content["state"]),
        "failing_since": None if since is None else from_ms(since),
        "created_at": from_ms(content["created_at"]),
    }
    return WebhookRow(**content)


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
