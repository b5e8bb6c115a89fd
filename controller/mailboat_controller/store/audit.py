"""Who did what, when and why: append-only, each row sealed with the hash of the one before.

The chain (`audit_chain`) finds a row that was changed, inserted or removed; the database itself
refuses to change or delete one (the migration ``audit_for_ever``). Rows cut off at the end, and a
chain that was worked out anew, show against a signed head that is kept elsewhere (`audit_heads`).
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, func, insert, select

from mailboat_controller.store import locks, tables
from mailboat_controller.store.audit_chain import FIRST_PREVIOUS_HASH, Broken, Chain, seal
from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.plain_json import storable_json, storable_text

REASON_LENGTH_MAX = 2000
SUBJECT_LENGTH_MAX = 256
_VERIFY_ROWS_AT_ONCE = 1000
SUBJECTS_AT_ONCE = 500  # a statement may have so many parameters, and some to spare

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
    tx.execute(insert(_audit).values(**row, hash=seal(row)))
    return last_sequence + 1


def continue_with(tx: Connection, sealed: Sequence[Mapping[str, Any]]) -> None:
    """Entries that follow on ours, as they were sealed; the caller has checked that."""
    locks.hold_until_commit(tx, locks.AUDIT_KEY)
    tx.execute(insert(_audit), [dict(entry) for entry in sealed])


def head(tx: Connection) -> tuple[int, str]:
    """Sequence and hash of the newest entry; (0, zeros) while there is none."""
    newest = tx.execute(
        select(_audit.c.sequence, _audit.c.hash).order_by(_audit.c.sequence.desc()).limit(1)
    ).first()
    return (0, FIRST_PREVIOUS_HASH) if newest is None else (newest.sequence, newest.hash)


def verify(tx: Connection) -> int | None:
    """The sequence of the first entry that does not hold, or None."""
    broken = check(tx)
    return None if broken is None else broken.sequence


def check(tx: Connection) -> Broken | None:
    """The first entry that does not hold, or None. Reads the whole log, a part at a time."""
    chain = Chain()
    for entry in entries(tx):
        broken = chain.take(entry)
        if broken is not None:
            return broken
    return None


def entries(tx: Connection, first: int = 1, last: int | None = None) -> Iterator[dict[str, Any]]:
    """Entries from ``first`` to ``last`` as `audit_chain` knows them, a part at a time."""
    after = first - 1
    while True:
        query = select(_audit).where(_audit.c.sequence > after)
        if last is not None:
            query = query.where(_audit.c.sequence <= last)
        rows = tx.execute(query.order_by(_audit.c.sequence).limit(_VERIFY_ROWS_AT_ONCE)).fetchall()
        yield from (dict(row._mapping) for row in rows)
        if len(rows) < _VERIFY_ROWS_AT_ONCE:
            return
        after = rows[-1].sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which entries; what is None does not matter."""

    subject: str | None = None
    actor: str | None = None
    action: str | None = None  # ``rollout.`` with the dot: every action of that noun
    since: datetime | None = None
    until: datetime | None = None  # not itself

    def narrow(self, query: Select[Any]) -> Select[Any]:
        c = _audit.c
        if self.subject is not None:
            query = query.where(c.subject == self.subject)
        if self.actor is not None:
            query = query.where(c.actor == self.actor)
        if self.action is not None and self.action.endswith("."):
            query = query.where(c.action.startswith(self.action, autoescape=True))
        elif self.action is not None:
            query = query.where(c.action == self.action)
        if self.since is not None:
            query = query.where(c.at >= to_ms(self.since))
        if self.until is not None:
            query = query.where(c.at < to_ms(self.until))
        return query


_ANY = Wanted()


def page(
    tx: Connection,
    *,
    after: int = 0,
    limit: int = 100,
    subject: str | None = None,
    wanted: Wanted = _ANY,
) -> tuple[AuditRow, ...]:
    """Entries in order, those with a sequence above ``after``."""
    query = wanted.narrow(select(_audit).where(_audit.c.sequence > after))
    if subject is not None:
        query = query.where(_audit.c.subject == subject)
    rows = tx.execute(query.order_by(_audit.c.sequence).limit(limit))
    return tuple(_read(row) for row in rows)


def newest_page(
    tx: Connection,
    *,
    before: int | None = None,
    limit: int = 100,
    wanted: Wanted = _ANY,
    subjects: Collection[str] | None = None,
) -> tuple[AuditRow, ...]:
    """The newest entries, those with a sequence below ``before``; the oldest of them first.

    Args:
        subjects: about any of these; at most `SUBJECTS_AT_ONCE`.
    """
    query = wanted.narrow(select(_audit))
    if before is not None:
        query = query.where(_audit.c.sequence < before)
    if subjects is not None:
        query = query.where(_audit.c.subject.in_(sorted(subjects)[:SUBJECTS_AT_ONCE]))
    rows = tx.execute(query.order_by(_audit.c.sequence.desc()).limit(limit)).fetchall()
    return tuple(_read(row) for row in reversed(rows))


def about(
    tx: Connection, subjects: Collection[str], actions: Collection[str]
) -> tuple[AuditRow, ...]:
    """Every entry of these actions about these subjects, in order."""
    found: list[AuditRow] = []
    asked = sorted(subjects)
    for start in range(0, len(asked), SUBJECTS_AT_ONCE):
        some = asked[start : start + SUBJECTS_AT_ONCE]
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


def _read(row: Row[Any]) -> AuditRow:
    return AuditRow(**{**row._mapping, "at": from_ms(row.at)})
