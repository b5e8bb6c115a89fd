"""Who did what, when and why: append-only, each row sealed with the hash of the one before.

The chain finds a row that was changed, inserted or removed. Rows cut off at the end leave no gap,
so whoever must prove that writes the newest ``hash`` down elsewhere (`head`).
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select

from mailboat_controller.store import locks, tables
from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.plain_json import storable_json, storable_text

FIRST_PREVIOUS_HASH = "0" * 64
REASON_LENGTH_MAX = 2000
SUBJECT_LENGTH_MAX = 256
_VERIFY_ROWS_AT_ONCE = 1000
_SUBJECTS_AT_ONCE = 500  # a statement may have so many parameters, and some to spare

_audit = tables.audit


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    sequence: int
    at: datetime
    actor: str  # kind:name, such as operator:alice, or controller
    action: str  # noun.verb, such as device.revoke
    subject: str
    reason: str
    details: Mapping[str, Any]
    previous_hash: str
    hash: str


def append(
    tx: Connection,
    *,
    at: datetime,
    actor: str,
    action: str,
    subject: str,
    reason: str = "",
    details: Mapping[str, Any] | None = None,
) -> int:
    """Add one entry in the caller's transaction; returns its sequence.

    One writer at a time: the chain is ours from here to the end of the transaction.
    """
    locks.hold_until_commit(tx, locks.AUDIT_KEY)
    last_sequence, last_hash = head(tx)
    row: dict[str, Any] = {
        "sequence": last_sequence + 1,
        "at": to_ms(at),
        "actor": storable_text(actor)[:128],
        "action": action,
        "subject": storable_text(subject)[:SUBJECT_LENGTH_MAX],
        "reason": storable_text(reason)[:REASON_LENGTH_MAX],
        # Through JSON once, so that what is hashed is what a reader of the column gets back.
        "details": storable_json(json.loads(json.dumps(dict(details or {})))),
        "previous_hash": last_hash,
    }
    tx.execute(insert(_audit).values(**row, hash=_seal(row)))
    return last_sequence + 1


def head(tx: Connection) -> tuple[int, str]:
    """Sequence and hash of the newest entry; (0, zeros) while there is none."""
    newest = tx.execute(
        select(_audit.c.sequence, _audit.c.hash).order_by(_audit.c.sequence.desc()).limit(1)
    ).first()
    return (0, FIRST_PREVIOUS_HASH) if newest is None else (newest.sequence, newest.hash)


def verify(tx: Connection) -> int | None:
    """The sequence of the first entry that does not hold, or None."""
    expected_sequence, previous_hash = 1, FIRST_PREVIOUS_HASH
    while True:
        rows = tx.execute(
            select(_audit)
            .where(_audit.c.sequence >= expected_sequence)
            .order_by(_audit.c.sequence)
            .limit(_VERIFY_ROWS_AT_ONCE)
        ).fetchall()
        for row in rows:
            content = dict(row._mapping)
            seal = content.pop("hash")
            if row.previous_hash != previous_hash or seal != _seal(content):
                return expected_sequence
            expected_sequence, previous_hash = row.sequence + 1, seal
        if len(rows) < _VERIFY_ROWS_AT_ONCE:
            return None


def page(
    tx: Connection, *, after: int = 0, limit: int = 100, subject: str | None = None
) -> tuple[AuditRow, ...]:
    """Entries in order, those with a sequence above ``after``."""
    query = select(_audit).where(_audit.c.sequence > after).order_by(_audit.c.sequence)
    if subject is not None:
        query = query.where(_audit.c.subject == subject)
    return tuple(_read(row) for row in tx.execute(query.limit(limit)))


def about(
    tx: Connection, subjects: Collection[str], actions: Collection[str]
) -> tuple[AuditRow, ...]:
    """Every entry of these actions about these subjects, in order."""
    found: list[AuditRow] = []
    asked = sorted(subjects)
    for start in range(0, len(asked), _SUBJECTS_AT_ONCE):
        some = asked[start : start + _SUBJECTS_AT_ONCE]
        query = select(_audit).where(_audit.c.subject.in_(some), _audit.c.action.in_(actions))
        found += [_read(row) for row in tx.execute(query)]
    return tuple(sorted(found, key=lambda row: row.sequence))


def count_since(tx: Connection, subject: str, *, actor: str, since: datetime) -> int:
    """How many entries an actor made about a subject."""
    c = _audit.c
    those = (c.subject == subject, c.actor == actor, c.at >= to_ms(since))
    return tx.execute(select(func.count()).select_from(_audit).where(*those)).scalar_one()


def newest(tx: Connection, subject: str, action: str) -> AuditRow | None:
    c = _audit.c
    query = select(_audit).where(c.subject == subject, c.action == action)
    row = tx.execute(query.order_by(c.sequence.desc()).limit(1)).first()
    return None if row is None else _read(row)


def _seal(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(row: Row[Any]) -> AuditRow:
    return AuditRow(**{**row._mapping, "at": from_ms(row.at)})
