"""The rows of one table sent from one database to another, a part at a time."""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    LargeBinary,
    String,
    Table,
    Text,
    bindparam,
    cast,
    insert,
    select,
)
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    StatementError,
)

from mailboat_controller.store import tables
from mailboat_controller.store.plain_json import storable_document, storable_text
from mailboat_schemas.errors import OperatorNeeded

ROWS_AT_ONCE = 1000
BLOB_ROWS_AT_ONCE = 50  # of tables with documents, each up to a megabyte or so

_audit = tables.audit

Advance = Callable[[int], None]  # rows copied since the last call


class DatabaseNotCopied(OperatorNeeded):
    """Nothing of it is in the target."""

    code = "E-DATABASE-COPY"


def copy_table(tx: Connection, into: Connection, table: Table, advance: Advance) -> int:
    """How many rows."""
    blobs = any(isinstance(column.type, LargeBinary) for column in table.columns)
    # Documents as the text that they are stored as.
    read = [cast(c, Text).label(c.name) if _is_json(c) else c for c in table.columns]
    rows = tx.execute(
        select(*read).order_by(*table.primary_key.columns),
        execution_options={"yield_per": BLOB_ROWS_AT_ONCE if blobs else ROWS_AT_ONCE},
    )
    send = _send_copied if into.dialect.name == "postgresql" else _send_inserted
    # The audit log's rows are sealed as they are.
    clean = None if table is _audit else [_cleaner(column) for column in table.columns]
    count = 0
    for part in rows.partitions():
        sent = (
            [tuple(row) for row in part] if clean is None else [_clean(row, clean) for row in part]
        )
        _sent(send, into, table, sent)
        count += len(sent)
        advance(len(sent))
    return count


Send = Callable[[Connection, Table, Sequence[tuple[Any, ...]]], None]
Clean = Callable[[Any], Any]


def _is_json(column: Column[Any]) -> bool:
    return isinstance(column.type, JSON)


def _cleaner(column: Column[Any]) -> Clean | None:
    """SQLite holds text that PostgreSQL does not."""
    if _is_json(column):
        return lambda value: storable_document(value) if isinstance(value, str) else value
    if isinstance(column.type, String):
        return lambda value: storable_text(value) if isinstance(value, str) else value
    return None


def _clean(row: Sequence[Any], cleaners: Sequence[Clean | None]) -> tuple[Any, ...]:
    pairs = zip(row, cleaners, strict=True)
    return tuple(value if clean is None else clean(value) for value, clean in pairs)


def _send_inserted(into: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    names = [column.name for column in table.columns]
    values = {c.name: bindparam(c.name, type_=Text() if _is_json(c) else c.type) for c in table.c}
    into.execute(insert(table).values(values), [dict(zip(names, row, strict=True)) for row in rows])


def _send_copied(into: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """PostgreSQL's COPY, several times as fast as inserts."""
    quote = into.dialect.identifier_preparer.quote
    names = ", ".join(quote(column.name) for column in table.columns)
    driver: Any = into.connection.driver_connection  # SQLAlchemy has no word for COPY
    try:
        with (
            driver.cursor() as cursor,
            cursor.copy(f"COPY {quote(table.name)} ({names}) FROM STDIN") as copying,
        ):
            for row in rows:
                copying.write_row(row)
    except into.dialect.loaded_dbapi.DataError as error:
        raise DataError("COPY", None, error) from error
    except into.dialect.loaded_dbapi.Error as error:
        raise OperationalError("COPY", None, error) from error


def _sent(send: Send, into: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    try:
        send(into, table, rows)
    except (DataError, IntegrityError, ValueError, OverflowError) as error:
        raise _does_not_fit(table, rows, error) from error
    except StatementError as error:
        if isinstance(error, DBAPIError):
            raise
        raise _does_not_fit(table, rows, error) from error


def _does_not_fit(
    table: Table, rows: Sequence[tuple[Any, ...]], error: Exception
) -> DatabaseNotCopied:
    key = [n for n, column in enumerate(table.columns) if column.primary_key]
    first, last = ("/".join(str(row[n]) for n in key) for row in (rows[0], rows[-1]))
    problem = str(getattr(error, "orig", None) or error).splitlines()[0]
    return DatabaseNotCopied(
        f"A row of {table.name} from {first} to {last} does not fit the target: {problem[:200]}.",
        next_step="report it; the source is as it was, and a controller can go on with it.",
    )
