"""The telemetry that waits for the controller: taken in, handed out, thinned when it is too much.

Its methods work within a transaction of the journal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from mailboat_agent.journal import thinning, window_rows
from mailboat_agent.journal.database import Connection
from mailboat_agent.journal.rows import (
    WINDOWS_DROPPED,
    WINDOWS_GIVEN,
    WINDOWS_MERGED,
    WINDOWS_RECORDED,
    BatchSize,
    read_meta,
    set_meta,
)
from mailboat_schemas.codec import encode
from mailboat_schemas.reports import Span, TelemetryBatch, TelemetryWindow

# A damaged row may say anything, and is in these all the same until it is met.
_LEVELS = f"""
SELECT level, count(*), sum({window_rows.SIZE}), CAST(min(started_at) AS INTEGER),
    coalesce(CAST(max(started_at + seconds * 1000) AS INTEGER), 0)
FROM windows WHERE typeof(level) = 'integer' GROUP BY level ORDER BY level
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class HandedOut:
    """Consecutive sequences. ``oldest`` is the lowest number among them; ``again``: they have been
    handed out before."""

    windows: tuple[TelemetryWindow, ...] = ()
    oldest: int = 0
    again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLevel:
    """Windows of one resolution. Times are milliseconds since 1970 by the device's clock."""

    seconds_max: int  # that one spans; 0: as it was recorded
    windows: int
    bytes: int
    began_at: int
    ended_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """``merged`` and ``dropped`` count since the journal began."""

    levels: tuple[HeldLevel, ...]
    merged: int
    dropped: int
    newest: int  # number of the window that was recorded last

    @property
    def windows(self) -> int:
        return sum(level.windows for level in self.levels)

    @property
    def bytes(self) -> int:
        return sum(level.bytes for level in self.levels)


class TelemetryBuffer:
    def __init__(self, damaged: Callable[[Connection, int], None], bounds: thinning.Bounds) -> None:
        """``damaged`` tells that so many windows could not be read and are gone."""
        self._damaged = damaged
        self._bounds = bounds
        self._held: Held | None = None  # asked for every second, changes every minute

    def forget(self) -> None:
        """Another database was opened."""
        self._held = None

    def begin(self, connection: Connection) -> None:
        for name in (WINDOWS_GIVEN, WINDOWS_RECORDED, WINDOWS_MERGED, WINDOWS_DROPPED):
            set_meta(connection, name, "0")

    def record(self, connection: Connection, window: TelemetryWindow) -> int:
        self._held = None
        thinned = thinning.make_room(connection, self._bounds, len(encode(window)))
        self._tell_damage(connection, thinned.damaged)
        number = window_rows.next_number(connection)
        numbered = window.model_copy(update={"sequence": number})
        window_rows.insert(connection, numbered, thinning.level_of(window.seconds))
        return number

    def look(
        self, connection: Connection, number: int, limit: int, bytes_max: int
    ) -> list[TelemetryWindow]:
        rows = connection.execute(window_rows.IN_ORDER, (number, limit)).fetchall()
        read = self._whole(connection, _within(rows, BatchSize(bytes_max)))
        return [window.model_copy(update={"sequence": row[0]}) for row, window in read]

    def hand_out(
        self, connection: Connection, after: int, limit: int, bytes_max: int, newer_than: int
    ) -> HandedOut:
        rows = connection.execute(window_rows.ON_THEIR_WAY, (after, limit)).fetchall()
        read = self._whole(connection, _within(rows, _of_a_batch(bytes_max)))
        again = bool(read)
        if not again:
            read = self._give_sequences(connection, limit, bytes_max, newer_than)
        # A row that was damaged on its way leaves a gap: what is behind it goes another time.
        together = [
            item
            for place, item in enumerate(read)
            if item[1].sequence == read[0][1].sequence + place
        ]
        windows = tuple(window for _, window in together)
        return HandedOut(windows, min((row[0] for row, _ in together), default=0), again)

    def span(self, connection: Connection) -> Span:
        return window_rows.span(connection)

    def confirm(self, connection: Connection, sequence: int) -> None:
        gone = connection.execute("DELETE FROM windows WHERE sequence <= ?", (sequence,))
        if gone.rowcount:
            self._held = None

    def held(self, connection: Connection) -> Held:
        if self._held is None:
            self._held = Held(
                levels=tuple(
                    HeldLevel(
                        seconds_max=thinning.LEVEL_SECONDS[level],
                        windows=windows,
                        bytes=used,
                        began_at=began_at,
                        ended_at=ended_at,
                    )
                    for level, windows, used, began_at, ended_at in connection.execute(_LEVELS)
                    if 0 <= level < len(thinning.LEVEL_SECONDS)
                ),
                merged=int(read_meta(connection, WINDOWS_MERGED)),
                dropped=int(read_meta(connection, WINDOWS_DROPPED)),
                newest=window_rows.last_number(connection),
            )
        return self._held

    def take_back(self, connection: Connection) -> None:
        """A new epoch begins: what was handed out in the old one is handed out anew."""
        rows = connection.execute(window_rows.ON_THEIR_WAY, (0, -1)).fetchall()
        for row, _ in self._whole(connection, rows):
            window_rows.give_sequence(connection, row, None)
        set_meta(connection, WINDOWS_GIVEN, "0")

    def _give_sequences(
        self, connection: Connection, limit: int, bytes_max: int, newer_than: int
    ) -> list[tuple[window_rows.Row, TelemetryWindow]]:
        rows = connection.execute(window_rows.NEWEST_FIRST, (newer_than, limit)).fetchall()
        newest = self._whole(connection, _within(rows, _of_a_batch(bytes_max)))
        given = window_rows.last_given(connection)
        read = []
        for row, window in reversed(newest):
            given += 1
            window_rows.give_sequence(connection, row, given)
            read.append((row, window.model_copy(update={"sequence": given})))
        if read:
            set_meta(connection, WINDOWS_GIVEN, str(given))
        return read

    def _whole(
        self, connection: Connection, rows: Sequence[window_rows.Row]
    ) -> list[tuple[window_rows.Row, TelemetryWindow]]:
        """Those that can be read; the others are deleted, and an event tells of them."""
        read = [(row, window_rows.read(row)) for row in rows]
        damaged = [row[0] for row, window in read if window is None]
        window_rows.delete_damaged(connection, damaged)
        self._tell_damage(connection, len(damaged))
        return [(row, window) for row, window in read if window is not None]

    def _tell_damage(self, connection: Connection, count: int) -> None:
        if count:
            self._held = None
            self._damaged(connection, count)


def _of_a_batch(bytes_max: int) -> BatchSize:
    return BatchSize(bytes_max, TelemetryBatch.unpacked_bytes_max)


def _within(rows: Sequence[window_rows.Row], size: BatchSize) -> Sequence[window_rows.Row]:
    """As many as fit, but one if any."""
    return list(takewhile(lambda row: size.takes(window_rows.content_of(row)), rows))
