"""One database copied into another, empty one: all of it in one transaction there, or nothing.

Nobody may write to either meanwhile: the locks of whoever leads or takes messages in are ours for
so long. Rows go in parts, so that the memory it takes does not grow with the database.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Table, func, inspect, select, text

from mailboat_controller.ingest.partition import PARTITIONS_MAX
from mailboat_controller.store import all_tables, audit, locks
from mailboat_controller.store.engine import Store
from mailboat_controller.store.table_copy import Advance, DatabaseNotCopied, copy_table

ACTION = "database.copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What stands in the target and was counted and checked there."""

    tables: int
    rows: int
    audit_entries: int
    audit_head: str  # hash of the newest entry


def copy(
    source: Store,
    target: Store,
    *,
    actor: str,
    reason: str,
    now: datetime,
    advance: Advance = lambda _rows: None,
) -> Copied:
    """Copy everything, with an entry in the audit log that both have from here on.

    Raises:
        DatabaseNotCopied: one of them is in use or of another version, the target is not empty, or
            what came there is not what was sent.
        ServerUnavailable, DiskFull: as of `Store.transaction`; nothing was copied.
    """
    refuse_unready(source, target)
    with ExitStack() as held:
        for store, which in ((source, "the database of database_url"), (target, "the target")):
            held.enter_context(_ours_alone(store, which))
        if not _table_names(target):
            target.migrate()
        # The target commits first: an entry that the source misses names a copy that there is.
        with source.transaction() as tx, target.transaction() as into:
            _refuse_rows(into)
            audit.append(
                tx,
                at=now,
                actor=actor,
                action=ACTION,
                subject="postgresql" if not target.is_sqlite else "sqlite",
                reason=reason,
            )
            return copy_rows(tx, into, advance)


def count_rows(source: Store) -> int:
    """For a bar that shows how far it is."""
    with source.read() as tx:
        return sum(_count(tx, table) for table in _tables())


def _tables() -> Sequence[Table]:
    return all_tables.metadata.sorted_tables


def _table_names(store: Store) -> set[str]:
    with store.read() as tx:
        return set(inspect(tx).get_table_names())


def refuse_unready(source: Store, target: Store) -> None:
    """
    Raises:
        DatabaseNotCopied: one of them is of another version, or of another program.
    """
    if not source.is_migrated():
        raise DatabaseNotCopied(
            "The database of database_url is not of this version.",
            next_step="start `mailboat serve` of this version on it once, stop it, and copy again.",
        )
    if _table_names(target) and not target.is_migrated():
        raise DatabaseNotCopied(
            "The target holds tables of another program, or of another version of this one.",
            next_step="make a new, empty database for it.",
        )


def copy_rows(tx: Connection, into: Connection, advance: Advance = lambda _rows: None) -> Copied:
    """Every row from one view of a database into another, empty one of this version, checked.

    Raises:
        DatabaseNotCopied: the target is not empty, or what came there is not what was sent.
    """
    _refuse_rows(into)
    sent = {table.name: copy_table(tx, into, table, advance) for table in _tables()}
    for table in _tables():
        _continue_numbers(tx, into, table)
    return _verified(tx, into, sent)


@contextmanager
def _ours_alone(store: Store, which: str) -> Iterator[None]:
    partitions = [] if store.is_sqlite else range(PARTITIONS_MAX)
    names = [locks.LEADER, *(locks.partition_lock(number) for number in partitions)]
    with ExitStack() as stack:
        for name in names:
            held = store.try_hold(name)
            if held is None:
                raise DatabaseNotCopied(
                    f"A process works with {which} (it holds the lock {name!r}).",
                    next_step="stop `mailboat serve` and `mailboat ingest`, wherever they run, and "
                    "copy again: what they took in meanwhile would be lost.",
                )
            stack.enter_context(held)
        yield


def _refuse_rows(into: Connection) -> None:
    for table in _tables():
        if into.execute(select(*table.primary_key.columns).limit(1)).first() is not None:
            raise DatabaseNotCopied(
                f"The target is not empty: there are rows in {table.name}.",
                next_step="make a new, empty database for it; nothing was changed in this one.",
            )


def _continue_numbers(tx: Connection, into: Connection, table: Table) -> None:
    """Numbers that the source has given are not given again, even if their rows are gone."""
    column = table.autoincrement_column
    if column is None:
        return
    last = max(
        tx.execute(select(func.max(column))).scalar() or 0, _last_given(tx, table, column.name)
    )
    if not last:
        return
    if into.dialect.name == "postgresql":
        into.execute(
            text("SELECT setval(pg_get_serial_sequence(:table, :column), :last)"),
            {"table": table.name, "column": column.name, "last": last},
        )
    elif table.dialect_options["sqlite"]["autoincrement"]:
        named = {"name": table.name, "last": last}
        into.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), named)
        into.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)"), named)


def _last_given(tx: Connection, table: Table, column: str) -> int:
    named = {"name": table.name, "column": column}
    if tx.dialect.name == "postgresql":
        asked = "SELECT pg_sequence_last_value(pg_get_serial_sequence(:name, :column)::regclass)"
    else:
        asked = "SELECT seq FROM sqlite_sequence WHERE name = :name"
        del named["column"]
    return int(tx.execute(text(asked), named).scalar() or 0)


def _verified(tx: Connection, into: Connection, sent: dict[str, int]) -> Copied:
    for table in _tables():
        found = _count(into, table)
        if found != sent[table.name] or found != _count(tx, table):
            raise _differs(f"{table.name} has {found} rows, and {sent[table.name]} were sent")
    broken = audit.verify(into)
    if broken is not None:
        raise _differs(f"entry {broken} of the audit log does not hold")
    entries, head = audit.head(into)
    if (entries, head) != audit.head(tx):
        raise _differs("the audit log ends with another entry")
    return Copied(tables=len(sent), rows=sum(sent.values()), audit_entries=entries, audit_head=head)


def _differs(what: str) -> DatabaseNotCopied:
    return DatabaseNotCopied(
        f"What came to the target is not what was sent: {what}.",
        next_step="see that nobody else writes to either of them (`mailboat audit verify` says "
        "whether the source's log holds), and copy again.",
    )


def _count(tx: Connection, table: Table) -> int:
    return tx.execute(select(func.count()).select_from(table)).scalar_one()
