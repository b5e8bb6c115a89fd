"""A full buffer: resolution goes, not coverage.

Windows stand on four levels, each with its share of the buffer: as they were recorded, ten minutes,
hours, days. When the buffer is full, the oldest windows of the level that exceeds its share the
most become one of the next. So what is newest is always finest, and every second that was recorded
stays in some window. On the last level the two oldest of a series are made one.

Only where nothing can be merged any more, because nearly every row is of another release, the
oldest row is dropped; that is counted and told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mailboat_agent.journal import window_rows
from mailboat_agent.journal.database import Connection
from mailboat_agent.journal.rows import WINDOWS_DROPPED, WINDOWS_MERGED, read_meta, set_meta
from mailboat_schemas.reports import TelemetryWindow
from mailboat_schemas.window_merge import merge_windows

TELEMETRY_ROWS_MAX = 16_384
TELEMETRY_BYTES_MAX = 24 << 20  # of what the rows hold; the file is about half as large again
# Seconds that one window of a level spans at most; 0: as it was recorded.
LEVEL_SECONDS = (0, 600, 3600, 86_400)
# Of rows and of bytes. With three models at one window a minute: 45 hours as recorded, 9 days of
# ten minutes, 40 days of hours, then days.
LEVEL_SHARES = (0.5, 0.25, 0.1875, 0.0625)
BUCKET_ROWS_MAX = 128  # merged at once; windows of ten seconds are 60 in ten minutes
STEPS_MAX = 64  # for one new window
# A row alone in its bucket is lifted to the next level, which frees nothing yet: for a while there
# may be so many rows too many (a device that is on for a minute an hour, a thousand times).
ROWS_OVER_MAX = 256

_FIRST_OF_LEVEL = """
SELECT series, started_at FROM windows INDEXED BY windows_by_level
WHERE level = ? AND sequence IS NULL ORDER BY number LIMIT 1
"""
_BUCKET = f"""
SELECT {window_rows.COLUMNS} FROM windows
WHERE series = ? AND level = ? AND started_at >= ? AND started_at < ? AND sequence IS NULL
ORDER BY number LIMIT ?
"""  # noqa: S608
_OLDEST_SERIES_WITH_TWO = """
SELECT series FROM windows WHERE level = ? AND sequence IS NULL
GROUP BY series HAVING count(*) > 1 ORDER BY min(number) LIMIT 1
"""
_TWO_OLDEST = f"""
SELECT {window_rows.COLUMNS} FROM windows WHERE series = ? AND level = ? AND sequence IS NULL
ORDER BY number LIMIT 2
"""  # noqa: S608
_OLDEST = "SELECT number FROM windows ORDER BY sequence IS NOT NULL, number LIMIT 1"
_TOTALS = f"SELECT level, count(*), sum({window_rows.SIZE}) FROM windows GROUP BY level"  # noqa: S608


@dataclass(frozen=True, slots=True)
class Bounds:
    rows_max: int = TELEMETRY_ROWS_MAX
    bytes_max: int = TELEMETRY_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Thinned:
    """What making room has cost."""

    merged: int = 0  # windows that are now a part of another
    dropped: int = 0
    damaged: int = 0


@dataclass(frozen=True, slots=True)
class _Held:
    rows: int = 0
    bytes: int = 0


def make_room(connection: Connection, bounds: Bounds, bytes_more: int) -> Thinned:
    """Until one more window of ``bytes_more`` fits."""
    merged = dropped = damaged = 0
    lifting = False
    for _ in range(STEPS_MAX):
        held = _totals(connection)
        if not _is_full(held, bounds, bytes_more, rows_over=0):
            break
        became = _merge_somewhere(connection, held, bounds)
        lifting = became is not None and not became.merged
        if became is None:
            dropped += _drop_oldest(connection)
        else:
            merged, damaged = merged + became.merged, damaged + became.damaged
    over = ROWS_OVER_MAX if lifting else 0
    while _is_full(_totals(connection), bounds, bytes_more, rows_over=over):
        dropped += _drop_oldest(connection)
    _count(connection, WINDOWS_MERGED, merged)
    _count(connection, WINDOWS_DROPPED, dropped)
    return Thinned(merged, dropped, damaged)


def _is_full(
    held: Mapping[int, "_Held"], bounds: Bounds, bytes_more: int, *, rows_over: int
) -> bool:
    rows = sum(each.rows for each in held.values())
    used = sum(each.bytes for each in held.values())
    if not rows:
        return False
    return rows >= bounds.rows_max + rows_over or used + bytes_more > bounds.bytes_max


def _drop_oldest(connection: Connection) -> int:
    (number,) = connection.execute(_OLDEST).fetchone()
    window_rows.delete(connection, number)
    return 1


def fullness(held: Mapping[int, "_Held"], bounds: Bounds) -> list[int]:
    """The levels that hold anything, the one first that exceeds its share the most."""

    def share(level: int) -> float:
        each, part = held[level], LEVEL_SHARES[level]
        return max(each.rows / (bounds.rows_max * part), each.bytes / (bounds.bytes_max * part))

    return sorted((level for level in held if level in range(4)), key=lambda each: -share(each))


def _totals(connection: Connection) -> dict[int, _Held]:
    return {level: _Held(rows, used) for level, rows, used in connection.execute(_TOTALS)}


def level_of(seconds: float) -> int:
    """Of a window that was recorded over so long."""
    return sum(seconds >= bound > 0 for bound in LEVEL_SECONDS)


def _merge_somewhere(
    connection: Connection, held: Mapping[int, _Held], bounds: Bounds
) -> Thinned | None:
    """None: nothing can be merged or lifted."""
    for level in fullness(held, bounds):
        rows = _next_to_merge(connection, level)
        if rows:
            return _make_one(connection, rows, min(level + 1, len(LEVEL_SECONDS) - 1))
    return None


def _next_to_merge(connection: Connection, level: int) -> Sequence[window_rows.Row]:
    if level + 1 == len(LEVEL_SECONDS):
        found = connection.execute(_OLDEST_SERIES_WITH_TWO, (level,)).fetchone()
        return [] if found is None else connection.execute(_TWO_OLDEST, (*found, level)).fetchall()
    first = connection.execute(_FIRST_OF_LEVEL, (level,)).fetchone()
    if first is None:
        return []
    series, started_at = first
    bucket_ms = LEVEL_SECONDS[level + 1] * 1000
    begin = started_at // bucket_ms * bucket_ms
    return connection.execute(
        _BUCKET, (series, level, begin, begin + bucket_ms, BUCKET_ROWS_MAX)
    ).fetchall()


def _make_one(connection: Connection, rows: Sequence[window_rows.Row], level: int) -> Thinned:
    if len(rows) == 1 and window_rows.read(rows[0]) is not None:
        window_rows.lift(connection, rows[0], level)
        return Thinned()
    merged: TelemetryWindow | None = None
    read = [(row[0], window_rows.read(row)) for row in rows]
    damaged = [number for number, window in read if window is None]
    window_rows.delete_damaged(connection, damaged)
    for number, window in read:
        if window is not None:
            window_rows.delete(connection, number)
            merged = window if merged is None else merge_windows(merged, window)
    if merged is not None:
        window_rows.insert(connection, merged, level)
    count = len(rows) - len(damaged) - (merged is not None)
    return Thinned(merged=count, damaged=len(damaged))


def _count(connection: Connection, name: str, more: int) -> None:
    if more:
        set_meta(connection, name, str(int(read_meta(connection, name)) + more))
