"""One statement for many rows, handed to the driver as it is.

SQLAlchemy works out every row's parameters anew, which takes longer than storing it. So the
statement is compiled once and the values go straight to the driver: numbers, text, bytes and None
alone, and JSON as its text (`plain_json.packed`).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

from sqlalchemy import Connection, Dialect, Insert, Table, Update, insert

_STATEMENTS_MAX = 64  # compiled and kept; a process has one database and a handful of statements


class ManyRows:
    """An insert or update, and the names of its parameters in the order of a row's values."""

    def __init__(self, statement: Insert | Update, names: Sequence[str]) -> None:
        self._statement = statement
        self._names = tuple(names)

    @classmethod
    def into(cls, table: Table, names: Sequence[str]) -> "ManyRows":
        """New rows: the names are those of all columns but the number that the database gives."""
        return cls(insert(table).inline(), names)

    def run(self, tx: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """
        Raises:
            DBAPIError, OverflowError: as any statement; none of the rows may be relied on then.
        """
        if not rows:
            return
        text, places = _compiled(tx.dialect, self._statement, self._names)
        if places is None:
            tx.exec_driver_sql(text, [dict(zip(self._names, row, strict=True)) for row in rows])
        elif places == tuple(range(len(self._names))):
            tx.exec_driver_sql(text, cast("list[tuple[Any, ...]]", rows))
        else:
            tx.exec_driver_sql(text, [tuple(row[place] for place in places) for row in rows])


@lru_cache(maxsize=_STATEMENTS_MAX)
def _compiled(
    dialect: Dialect, statement: Insert | Update, names: tuple[str, ...]
) -> tuple[str, tuple[int, ...] | None]:
    """Its text, and which value of a row stands at each place; None where they go by name."""
    compiled = statement.compile(dialect=dialect, column_keys=list(names), for_executemany=True)
    if not compiled.positional:
        return str(compiled), None
    return str(compiled), tuple(names.index(name) for name in compiled.positiontup or ())
