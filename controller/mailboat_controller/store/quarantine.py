"""Messages that could not be taken: kept for a look, so that they can be acknowledged."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from mailboat_controller.store import tables
from mailboat_controller.store.instants import to_ms

PAYLOAD_KEPT_BYTES_MAX = 4096
PROBLEM_LENGTH_MAX = 1000
TOPIC_LENGTH_MAX = 512
MESSAGES_MAX = 10_000  # then the oldest go; a flood of them is one look, not a full disk

_quarantine = tables.quarantine


def put(
    tx: Connection, *, topic: str, code: str, problem: str, payload: bytes, at: datetime
) -> None:
    inserted = tx.execute(
        insert(_quarantine).values(
            topic=topic.replace("\0", "")[:TOPIC_LENGTH_MAX],
            code=code[:64],
            problem=problem.replace("\0", "")[:PROBLEM_LENGTH_MAX],
            payload=payload[:PAYLOAD_KEPT_BYTES_MAX],
            received_at=to_ms(at),
        )
    )
    newest: int = inserted.inserted_primary_key[0]  # type: ignore[index]  # there always is one
    tx.execute(delete(_quarantine).where(_quarantine.c.id <= newest - MESSAGES_MAX))


def page(tx: Connection, *, after: int = 0, limit: int = 100) -> tuple[Mapping[str, Any], ...]:
    rows = tx.execute(
        select(_quarantine).where(_quarantine.c.id > after).order_by(_quarantine.c.id).limit(limit)
    )
    return tuple(dict(row._mapping) for row in rows)


def count(tx: Connection) -> int:
    return tx.execute(select(func.count()).select_from(_quarantine)).scalar_one()
