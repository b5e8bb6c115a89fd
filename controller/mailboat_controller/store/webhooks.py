"""Webhooks: who is told."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.webhook_tables import webhook_deliveries, webhooks
from mailboat_schemas.errors import Conflict, NotFound

WEBHOOKS_MAX = 50


class State(StrEnum):
    ACTIVE = "active"
    DISABLED = "disabled"


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
    secret_file: str  # its name in the room of secrets


def add(tx: Connection, row: WebhookRow) -> None:
    """
    Raises:
        Conflict: there is one of this name, or there are too many.
    """
    refuse_another(tx, row.name)
    content = {name: getattr(row, name) for name in WebhookRow.__slots__}
    content |= {
        "types": list(row.types),
        "models": list(row.models),
        "failing_since": None,
        "created_at": to_ms(row.created_at),
    }
    tx.execute(insert(webhooks).values(**content))


def refuse_another(tx: Connection, name: str) -> None:
    """
    Raises:
        Conflict: there is one of this name, or there are too many.
    """
    if find(tx, name) is not None:
        raise Conflict(
            f"There is a webhook {name} already.",
            next_step="remove it first, or take another name.",
        )
    if len(every(tx)) >= WEBHOOKS_MAX:
        raise Conflict(
            f"There are {WEBHOOKS_MAX} webhooks already.",
            next_step="remove one; one receiver may pass events on to many.",
        )


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


def set_secret_file(tx: Connection, name: str, before: str, after: str) -> None:
    """
    Raises:
        Conflict: it was given another secret meanwhile, or removed.
    """
    c = webhooks.c
    those = (c.name == name, c.secret_file == before)
    changed = tx.execute(update(webhooks).where(*those).values(secret_file=after))
    if changed.rowcount != 1:
        raise Conflict(
            f"Somebody else gave webhook {name} another secret meanwhile.",
            next_step="ask him for it, or give it another one again: mailboat webhook secret.",
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
