"""Messages that could not be taken: kept for a look, so that they can be acknowledged."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from mailboat_controller.store import tables
from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_schemas.errors import NotFound

PAYLOAD_KEPT_BYTES_MAX = 4096
PROBLEM_LENGTH_MAX = 1000
TOPIC_LENGTH_MAX = 512
# Beyond these the oldest go: a flood is one look, not a full disk. All of it stays under 60 MB, and
# one device's flood pushes out no other's messages.
MESSAGES_MAX = 10_000
MESSAGES_PER_TOPIC_MAX = 100

_quarantine = tables.quarantine


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """``payload`` is its first `PAYLOAD_KEPT_BYTES_MAX`."""

    id: int
    received_at: datetime
    topic: str
    code: str
    problem: str
    payload: bytes


def put(
    tx: Connection, *, topic: str, code: str, problem: str, payload: bytes, at: datetime
) -> None:
    """Keep a message. Call `trim` before the transaction ends."""
    tx.execute(
        insert(_quarantine).values(
            topic=_kept(topic),
            code=code[:64],
            problem=problem.replace("\0", "")[:PROBLEM_LENGTH_MAX],
            payload=payload[:PAYLOAD_KEPT_BYTES_MAX],
            received_at=to_ms(at),
        )
    )


def trim(tx: Connection, topics: Collection[str]) -> int:
    """Drop the oldest beyond the bounds; returns how many.

    Args:
        topics: of the messages put since the last time.
    """
    c = _quarantine.c
    dropped = 0
    for topic in sorted({_kept(topic) for topic in topics}):
        newest = select(c.id).where(c.topic == topic).order_by(c.id.desc())
        dropped += _drop_from(tx, newest.offset(MESSAGES_PER_TOPIC_MAX), c.topic == topic)
    if topics:
        dropped += _drop_from(tx, select(c.id).order_by(c.id.desc()).offset(MESSAGES_MAX))
    return dropped


def page(tx: Connection, *, after: int = 0, limit: int = 100) -> tuple[Mapping[str, Any], ...]:
    rows = tx.execute(
        select(_quarantine).where(_quarantine.c.id > after).order_by(_quarantine.c.id).limit(limit)
    )
    return tuple(dict(row._mapping) for row in rows)


def newest_page(
    tx: Connection, *, before: int, limit: int, code: str | None = None, device: str | None = None
) -> tuple[Kept, ...]:
    """The newest messages, those with an id below ``before``; the oldest of them first.

    Args:
        device: whose topics; its name is one level of them.
    """
    c = _quarantine.c
    query = select(_quarantine).where(c.id < before)
    if code is not None:
        query = query.where(c.code == code)
    if device is not None:
        query = query.where(c.topic.contains(f"/dev/{device}/", autoescape=True))
    rows = tx.execute(query.order_by(c.id.desc()).limit(limit)).fetchall()
    return tuple(_read(row) for row in reversed(rows))


def get(tx: Connection, number: int) -> Kept:
    """
    Raises:
        NotFound: there never was one, or newer ones have pushed it out.
    """
    row = tx.execute(select(_quarantine).where(_quarantine.c.id == number)).one_or_none()
    if row is None:
        raise NotFound(
            f"There is no message {number} in the quarantine; newer ones push older ones out.",
            next_step="`mailboat quarantine list` shows those there are.",
        )
    return _read(row)


def _read(row: Any) -> Kept:
    return Kept(
        id=row.id,
        received_at=from_ms(row.received_at),
        topic=row.topic,
        code=row.code,
        problem=row.problem,
        payload=row.payload,
    )


def count(tx: Connection) -> int:
    return tx.execute(select(func.count()).select_from(_quarantine)).scalar_one()


def _drop_from(tx: Connection, newest_first: Any, *those: Any) -> int:
    """Drop the first row of the query and everything older."""
    oldest_kept = tx.execute(newest_first.limit(1)).scalar()
    if oldest_kept is None:
        return 0
    return tx.execute(delete(_quarantine).where(_quarantine.c.id <= oldest_kept, *those)).rowcount


def _kept(topic: str) -> str:
    return topic.replace("\0", "")[:TOPIC_LENGTH_MAX]
