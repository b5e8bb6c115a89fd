"""The journal looked into by a person: read only, bounded, and beside an agent that writes.

Through sqlite-utils, an optional extra. Readers of a WAL keep nobody from writing; one that takes
its time keeps the WAL from being used anew, so nothing is held open between two answers.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mailboat_agent.journal.database import SQLITE_ERRORS, open_to_look
from mailboat_agent.journal.inspection_bounds import (
    EXPORT_ROWS_AT_ONCE,
    EXPORTED,
    QUERY_ROWS,
    QUERY_SECONDS_MAX,
    RESULT_BYTES_MAX,
    STATEMENT_BYTES_MAX,
    VALUE_BYTES_MAX,
)
from mailboat_schemas.codec import decode
from mailboat_schemas.errors import MailboatError, NotFound, OperatorNeeded
from mailboat_schemas.events import Event
from mailboat_schemas.reports import TelemetryWindow

if TYPE_CHECKING:
    import sqlite_utils

Row = dict[str, Any]
Answer = TypeVar("Answer")


class QueryRefused(OperatorNeeded):
    """A statement that the journal does not answer."""

    code = "E-QUERY-REFUSED"


class InspectorMissing(OperatorNeeded):
    """The optional extra is not installed."""

    code = "E-INSPECTOR-MISSING"


class Inspection:
    """Each call opens the file, asks, and closes it."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            NotFound: there is no journal.
        """
        if not path.is_file():
            raise NotFound(
                f"There is no journal at {path}.",
                next_step="name the agent's configuration with --config, or a file with --file.",
            )
        self._path = path

    def tables(self) -> list[Row]:
        """Each table with how many rows it has and how it was made.

        Raises:
            QueryRefused, InspectorMissing
        """
        with closing(self._open()) as database:
            return self._answered(
                lambda: [
                    {
                        "table": table.name,
                        "rows": table.count,
                        "columns": [column.name for column in table.columns],
                    }
                    for table in database.tables
                ]
            )

    def query(self, statement: str, rows_max: int = QUERY_ROWS) -> tuple[list[Row], bool]:
        """At most ``rows_max`` rows, and whether there are more. `decoded(content)` is JSON there.

        Raises:
            QueryRefused: it writes, takes too long, gives too much, or is no SQL.
            InspectorMissing
        """
        if len(statement.encode()) > STATEMENT_BYTES_MAX:
            raise _refused("The statement is too long", "shorten it.")

        def ask() -> tuple[list[Row], bool]:
            rows: list[Row] = []
            size_bytes = 0
            for row in database.query(statement):
                if len(rows) == rows_max:
                    return rows, True
                size_bytes += sum(_size_bytes(value) for value in row.values())
                if size_bytes > RESULT_BYTES_MAX:
                    raise _refused(
                        f"The answer is over {RESULT_BYTES_MAX >> 20} MiB", "ask for less at once."
                    )
                rows.append(_readable(row))
            return rows, False

        with closing(self._open()) as database:
            return self._answered(ask)

    def export(self, table: str) -> Iterator[Row]:
        """Every row of one table, in order. What is written meanwhile comes too.

        Raises:
            QueryRefused: there is no such table to export.
            InspectorMissing
        """
        if table not in EXPORTED:
            raise _refused(f"{table} is no table to export", f"it is one of {sorted(EXPORTED)}.")
        order, after = EXPORTED[table], -(1 << 63)
        while rows := self._page(table, order, after):
            yield from map(_readable, rows)
            after = rows[-1][order]

    def _page(self, table: str, order: str, after: int) -> list[Row]:
        with closing(self._open()) as database:
            return self._answered(
                lambda: list(
                    database[table].rows_where(
                        f"{order} > ?", [after], order_by=order, limit=EXPORT_ROWS_AT_ONCE
                    )
                )
            )

    def _open(self) -> "sqlite_utils.Database":
        try:
            import sqlite_utils  # an optional extra, and slow to import
        except ModuleNotFoundError as error:
            raise InspectorMissing(
                "Looking into the journal needs sqlite-utils, which is not installed.",
                next_step="pip install 'mailboat[inspect]'; or copy journal.db and its -wal to "
                "another machine and use --file there.",
            ) from error
        database = sqlite_utils.Database(
            open_to_look(self._path, QUERY_SECONDS_MAX, VALUE_BYTES_MAX), execute_plugins=False
        )
        database.register_function(_decoded, name="decoded", deterministic=True)
        return database

    @staticmethod
    def _answered(ask: Callable[[], Answer]) -> Answer:
        try:
            return ask()
        except (*SQLITE_ERRORS, ValueError) as error:  # the latter of what gives no rows
            why = str(error)
            if "interrupted" in why:
                why = f"it took longer than {QUERY_SECONDS_MAX:g} s"
            raise _refused(
                f"The journal does not answer: {why}",
                "see `mailboat-agent db tables` for its tables; it can only be read.",
            ) from error


def content_of(content: bytes) -> dict[str, Any] | None:
    """What an event's or a window's row says; None if it cannot be read."""
    for kind in (Event, TelemetryWindow):
        with suppress(MailboatError):
            said: dict[str, Any] = decode(kind, content).model_dump(mode="json")
            return said
    return None


def _decoded(content: object) -> str | None:
    said = content_of(content) if isinstance(content, bytes) else None
    return None if said is None else json.dumps(said)


def _readable(row: Mapping[str, Any]) -> Row:
    """Content is decoded, any other blob is hexadecimal."""
    readable: Row = {}
    for name, value in row.items():
        if isinstance(value, bytes):
            said = content_of(value) if name == "content" else None
            readable[name] = value.hex() if said is None else said
        else:
            readable[name] = value
    return readable


def _size_bytes(value: object) -> int:
    return len(value) if isinstance(value, bytes | str) else 8


def _refused(what: str, next_step: str) -> QueryRefused:
    return QueryRefused(f"{what}.", next_step=next_step)
