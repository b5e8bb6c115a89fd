"""Signed heads of the audit log, kept beside it: a chain worked out anew does not fit them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select

from mailboat_controller.store.audit_head_tables import audit_heads
from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.tables import audit

_ROWS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRow:
    sequence: int
    hash: str
    signed: str
    signed_at: datetime


def put(tx: Connection, row: HeadRow) -> None:
    values = {"sequence": row.sequence, "hash": row.hash, "signed": row.signed}
    tx.execute(insert(audit_heads).values(**values, signed_at=to_ms(row.signed_at)))


def newest(tx: Connection) -> HeadRow | None:
    rows = tx.execute(select(audit_heads).order_by(audit_heads.c.sequence.desc()).limit(1))
    return next((_read(row) for row in rows), None)


def count(tx: Connection) -> int:
    return tx.execute(select(func.count()).select_from(audit_heads)).scalar_one()


def every(tx: Connection) -> Iterator[HeadRow]:
    """All of them in order, a part at a time."""
    after = 0
    while True:
        query = select(audit_heads).where(audit_heads.c.sequence > after)
        rows = tx.execute(query.order_by(audit_heads.c.sequence).limit(_ROWS_AT_ONCE)).fetchall()
        yield from (_read(row) for row in rows)
        if len(rows) < _ROWS_AT_ONCE:
            return
        after = rows[-1].sequence


def hash_of(tx: Connection, sequence: int) -> str | None:
    """Of an entry of the log; None where there is none."""
    return tx.execute(select(audit.c.hash).where(audit.c.sequence == sequence)).scalar()


def _read(row: Row[Any]) -> HeadRow:
    content = dict(row._mapping)
    return HeadRow(**{**content, "signed_at": from_ms(content["signed_at"])})
