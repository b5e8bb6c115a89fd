"""Telemetry windows as rows: recorded under a number, sent under a sequence.

A window is given its sequence when it is first handed out, not when it is recorded. So the newest
can go first, windows may be merged while they wait, and the controller still sees a stream without
a gap. From then on the row is never changed: whatever is lost on the way, it goes again as it was.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from mailboat_agent.journal.database import Connection
from mailboat_agent.journal.rows import (
    WINDOWS_GIVEN,
    WINDOWS_RECORDED,
    read_meta,
    row_hash,
    set_meta,
)
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.errors import MalformedPayload
from mailboat_schemas.reports import Span, TelemetryWindow

Row = Sequence[Any]  # as COLUMNS
COLUMNS = "number, series, level, started_at, seconds, sequence, content, hash"
_INSERT = "INSERT INTO windows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
# No hash covers it: one bad number shall not make the buffer look full.
SIZE = f"min(max(bytes, 0), {TelemetryWindow.wire_bytes_max})"
# S608: no text of a stranger's is put into a statement here, only the names of our own columns.
IN_ORDER = f"SELECT {COLUMNS} FROM windows WHERE number > ? ORDER BY number LIMIT ?"  # noqa: S608
ON_THEIR_WAY = f"""
SELECT {COLUMNS} FROM windows WHERE sequence > ? ORDER BY sequence LIMIT ?
"""  # noqa: S608
NEWEST_FIRST = f"""
SELECT {COLUMNS} FROM windows WHERE sequence IS NULL AND number > ? ORDER BY number DESC LIMIT ?
"""  # noqa: S608


def series_of(window: TelemetryWindow) -> str:
    """Windows of one series may become one."""
    workload = "" if window.workload is None else str(window.workload)
    return f"{window.model}/{window.digest}/{workload}"


def insert(connection: Connection, window: TelemetryWindow, level: int) -> None:
    """Under the number that its ``sequence`` is; it has not been handed out."""
    number, series, content = window.sequence, series_of(window), encode(window)
    seconds = float(window.seconds)
    digest = _hash(number, series, level, window.started_at, seconds, None, content)
    values = (number, series, level, window.started_at, seconds, len(content), None)
    connection.execute(_INSERT, (*values, content, digest))


def give_sequence(connection: Connection, row: Row, sequence: int | None) -> None:
    number, series, level, started_at, seconds, _, content, _ = row
    digest = _hash(number, series, level, started_at, seconds, sequence, content)
    connection.execute(
        "UPDATE windows SET sequence = ?, hash = ? WHERE number = ?", (sequence, digest, number)
    )


def lift(connection: Connection, row: Row, level: int) -> None:
    """Nothing in its bucket to be merged with: it is as coarse as it gets there."""
    number, series, _, started_at, seconds, sequence, content, _ = row
    digest = _hash(number, series, level, started_at, seconds, sequence, content)
    connection.execute(
        "UPDATE windows SET level = ?, hash = ? WHERE number = ?", (level, digest, number)
    )


def read(row: Row) -> TelemetryWindow | None:
    """With its sequence where it has one, else its number; None if the row is damaged."""
    number, series, level, started_at, seconds, sequence, content, digest = row
    if not isinstance(series, str) or not isinstance(content, bytes):
        return None
    if _hash(number, series, level, started_at, seconds, sequence, content) != digest:
        return None
    with suppress(MalformedPayload):
        window = decode(TelemetryWindow, content)
        return window.model_copy(update={"sequence": number if sequence is None else sequence})
    return None


def content_of(row: Row) -> object:
    """Encoded; a damaged row may hold anything."""
    return row[6]


def delete(connection: Connection, number: int) -> None:
    connection.execute("DELETE FROM windows WHERE number = ?", (number,))


def delete_damaged(connection: Connection, numbers: Sequence[int]) -> None:
    """An index that does not find what it is to forget makes SQLite call the whole file damaged,
    and the events in it would be set aside with it. So the indexes are made anew first."""
    if numbers:
        connection.execute("REINDEX windows")
    for number in numbers:
        delete(connection, number)


def next_number(connection: Connection) -> int:
    """Numbers only grow, also when every row is gone."""
    number = last_number(connection) + 1
    set_meta(connection, WINDOWS_RECORDED, str(number))
    return number


def last_number(connection: Connection) -> int:
    return int(read_meta(connection, WINDOWS_RECORDED))


def last_given(connection: Connection) -> int:
    return int(read_meta(connection, WINDOWS_GIVEN))


def span(connection: Connection) -> Span:
    """Sequences that were given and not confirmed. Empty: last is first - 1."""
    last = last_given(connection)
    query = "SELECT min(sequence) FROM windows WHERE sequence BETWEEN 1 AND ?"
    (first,) = connection.execute(query, (last,)).fetchone()
    return Span(first=last + 1 if first is None else first, last=last)


def _hash(
    number: object,
    series: str,
    level: object,
    started_at: object,
    seconds: object,
    sequence: object,
    content: bytes,
) -> bytes:
    key = f"{series}\0{level}\0{started_at}\0{seconds}\0{sequence}"
    return row_hash(number if isinstance(number, int) else -1, key, content)
