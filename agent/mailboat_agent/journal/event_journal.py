"""The outbox on disk: state events and telemetry windows, until the controller has them.

The journal is *not* the authority on what runs: a damaged one is moved aside, a new one with a new
epoch begins, and the state says which events to tell again.

Sequences are given here, one after the other, and never reused. The outbox sends in order and
cannot pass over a number, so an event whose row is damaged or gone is handed out as a
STORAGE_DAMAGED event. The controller has seen a window when it has seen a higher one, so windows
may vanish in between.
"""

import random
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.journal.database import Connection, Damaged, JournalDatabase
from mailboat_agent.journal.rows import (
    EPOCH,
    EVENTS_ACKNOWLEDGED,
    EVENTS_FROM,
    EVENTS_GIVEN,
    PAIR_TO_MERGE,
    SCHEMA,
    WINDOWS_FROM,
    WINDOWS_GIVEN,
    acknowledged,
    content_bytes,
    insert_event,
    insert_window,
    is_whole,
    last_event,
    last_window,
    read_meta,
    sequence_of,
    set_meta,
)
from mailboat_agent.journal.telemetry_merge import merge_windows
from mailboat_schemas.codec import decode
from mailboat_schemas.errors import DiskFull, MalformedPayload
from mailboat_schemas.events import Event, EventKind
from mailboat_schemas.reports import Span, TelemetryWindow

EVENTS_ROWS_MAX = 50_000  # an alarm, not a wall: a week offline at five a minute, about 20 MB
TELEMETRY_ROWS_MAX = 5_000  # three days of minutes for one model, about 5 MB; then they are merged
SEQUENCE_MAX = 1 << 53  # an event every millisecond for 285,000 years
EVENT_IDS_KEPT = 10_000  # of acknowledged events, so that none is recorded a second time
# A full buffer merges the oldest pair that stays within the first of these, else the next.
MERGED_SECONDS = (600, 3600, 86_400)


class Journal:
    """Safe to use from several threads.

    Every operation may raise DiskFull (even the ballast was not enough) or DiskFailing; nothing has
    changed then, and what serves goes on.
    """

    def __init__(self, path: Path, rng: random.Random) -> None:
        """Opens or begins the journal. When the disk refuses, the next operation tries again."""
        self._rng = rng
        self._epoch = ""
        self._damaged_events: set[int] = set()
        self._windows_handed_out = 0
        self.damaged_rows = 0
        self.windows_dropped = 0
        self._lost_rows = False  # the controller has rows of this epoch that are not here
        self._database = JournalDatabase(path, begin=self._begin, resume=self._resume)
        with suppress(DiskFull, DiskFailing):
            self._database.run(lambda _: None)

    def _begin(self, connection: Connection) -> None:
        for statement in SCHEMA.split(";"):
            connection.execute(statement)
        set_meta(connection, EPOCH, self._new_epoch())
        for name in (EVENTS_ACKNOWLEDGED, EVENTS_GIVEN, WINDOWS_GIVEN):
            set_meta(connection, name, "0")

    def _new_epoch(self) -> str:
        return f"{self._rng.getrandbits(64):016x}"

    def _resume(self, connection: Connection) -> None:
        self._hold_epoch(read_meta(connection, EPOCH))
        # Every number is looked at now: one that does not hold is met before the first event is.
        if not 0 <= acknowledged(connection) <= last_event(connection) <= SEQUENCE_MAX:
            raise Damaged("its sequences contradict each other")
        if not 0 <= last_window(connection) <= SEQUENCE_MAX:
            raise Damaged("its last window has an impossible number")

    def _hold_epoch(self, epoch: str) -> None:
        self._epoch = epoch
        self._damaged_events.clear()
        self._windows_handed_out = 0

    @property
    def epoch(self) -> str:
        """16 hex digits, made with the database; a new one begins after damage."""
        return self._database.run(lambda _: self._epoch)

    @property
    def was_lost(self) -> bool:
        """Damage was found since the start: tell again what the state implies."""
        return self._database.was_lost or self._lost_rows

    @property
    def is_new(self) -> bool:
        """None was found at the start, or none that could be read."""
        return self._database.is_new

    def check(self) -> None:
        """Have SQLite look at all of it; a damaged one is set aside and a new one begins."""
        self._database.check()

    def close(self) -> None:
        self._database.close()

    # --- events --------------------------------------------------------------------------------

    def record_event(self, event: Event) -> int:
        """Durable when it returns; the sequence it has, from now or from its first recording."""

        def record(connection: Connection) -> int:
            known = sequence_of(connection, event.event_id)
            if known is not None:
                return known
            sequence = last_event(connection) + 1
            insert_event(connection, event.model_copy(update={"sequence": sequence}))
            set_meta(connection, EVENTS_GIVEN, str(sequence))
            return sequence

        return self._database.run(record)

    def has_event(self, event_id: str) -> bool:
        """Whether it was recorded; also true when it has been acknowledged since."""
        return self._database.run(lambda found: sequence_of(found, event_id) is not None)

    @property
    def events_over_bound(self) -> bool:
        """More than `EVENTS_ROWS_MAX` wait. They are all kept; somebody should look."""
        span = self.span_events()
        return span.last - span.first + 1 > EVENTS_ROWS_MAX

    def events_after(self, sequence: int, limit: int, bytes_max: int) -> list[Event]:
        """Consecutive events, at most ``limit`` of about ``bytes_max`` in all, but one if any.

        ``bytes_max`` counts what the rows hold. Every sequence is handed out, damaged or not.
        """

        def read(connection: Connection) -> list[Event]:
            first = max(sequence, acknowledged(connection)) + 1
            last = min(last_event(connection), first + limit - 1)
            rows = connection.execute(EVENTS_FROM, (first, limit)).fetchall()
            by_sequence = {row[0]: row for row in rows}
            events: list[Event] = []
            bytes_used = 0
            for number in range(first, last + 1):
                row = by_sequence.get(number)
                bytes_used += 0 if row is None else content_bytes(row)
                if events and bytes_used > bytes_max:
                    break
                events.append(self._event_of(number, row))
            return events

        return self._database.run(read)

    def _event_of(self, sequence: int, row: Sequence[Any] | None) -> Event:
        if row is not None and is_whole(row):
            with suppress(MalformedPayload):
                return decode(Event, row[2])
        if sequence not in self._damaged_events:
            self._damaged_events.add(sequence)
            self.damaged_rows += 1
        return Event(
            event_id=f"{self._epoch}:{sequence}:damaged",
            sequence=sequence,
            kind=EventKind.STORAGE_DAMAGED,
            observed_at=0,  # when it happened is lost with it
            code="journal_row",
            because="This event was damaged on the device's disk; what it said is lost.",
        )

    def span_events(self) -> Span:
        """What waits: every sequence from first to last. Empty: last is first - 1."""

        def read(connection: Connection) -> Span:
            return Span(first=acknowledged(connection) + 1, last=last_event(connection))

        return self._database.run(read)

    # --- telemetry -----------------------------------------------------------------------------

    def record_window(self, window: TelemetryWindow) -> int:
        """Durable when it returns; the sequence it was given. A full buffer merges older ones.

        Raises:
            DiskFull: at once; the ballast is for what must not be lost.
        """

        def record(connection: Connection) -> int:
            (rows,) = connection.execute("SELECT count(*) FROM windows").fetchone()
            if rows >= TELEMETRY_ROWS_MAX:
                self._make_room(connection)
            sequence = last_window(connection) + 1
            insert_window(connection, window.model_copy(update={"sequence": sequence}))
            set_meta(connection, WINDOWS_GIVEN, str(sequence))
            return sequence

        return self._database.run(record, worth_the_ballast=False)

    def _make_room(self, connection: Connection) -> None:
        pair = connection.execute(
            PAIR_TO_MERGE, (self._windows_handed_out, *MERGED_SECONDS)
        ).fetchone()
        if pair is None:  # a release per row: nothing can be merged
            connection.execute(
                "DELETE FROM windows WHERE sequence = (SELECT min(sequence) FROM windows)"
            )
            self.windows_dropped += 1
            return
        whole = []
        for sequence in pair:
            row = connection.execute(WINDOWS_FROM, (sequence, 1)).fetchone()
            window = self._window_of(row)
            whole += [] if window is None else [window]
        connection.execute("DELETE FROM windows WHERE sequence IN (?, ?)", pair)
        if whole:
            merged = whole[0] if len(whole) == 1 else merge_windows(*whole)
            insert_window(connection, merged)

    def windows_after(self, sequence: int, limit: int, bytes_max: int) -> list[TelemetryWindow]:
        """Windows in ascending sequence, with gaps where some were merged; bounds as for events."""

        def read(connection: Connection) -> list[TelemetryWindow]:
            windows: list[TelemetryWindow] = []
            bytes_used = 0
            for row in connection.execute(WINDOWS_FROM, (sequence + 1, limit)).fetchall():
                bytes_used += content_bytes(row)
                if windows and bytes_used > bytes_max:
                    break
                window = self._window_of(row)
                if window is None:
                    connection.execute("DELETE FROM windows WHERE sequence = ?", (row[0],))
                else:
                    windows.append(window)
            handed_out = windows[-1].sequence if windows else 0
            self._windows_handed_out = max(self._windows_handed_out, handed_out)
            return windows

        return self._database.run(read)

    def _window_of(self, row: Sequence[Any]) -> TelemetryWindow | None:
        if is_whole(row):
            with suppress(MalformedPayload):
                return decode(TelemetryWindow, row[2])
        self.damaged_rows += 1
        return None

    def span_telemetry(self) -> Span:
        """The lowest waiting sequence and the last one given. Empty: last is first - 1."""

        def read(connection: Connection) -> Span:
            last = last_window(connection)
            query = "SELECT min(sequence) FROM windows WHERE sequence BETWEEN 1 AND ?"
            (first,) = connection.execute(query, (last,)).fetchone()
            return Span(first=last + 1 if first is None else first, last=last)

        return self._database.run(read)

    # --- the watermark -------------------------------------------------------------------------

    def acknowledge(self, events: int, telemetry: int) -> None:
        """Delete up to and including these sequences: the controller has them on its disk.

        Only ever called with a watermark of this epoch; one that is behind changes nothing.
        """

        def delete(connection: Connection) -> None:
            upto = min(events, last_event(connection))
            if upto > acknowledged(connection):
                set_meta(connection, EVENTS_ACKNOWLEDGED, str(upto))
                connection.execute(
                    "INSERT OR IGNORE INTO told "
                    "SELECT sequence, event_id FROM events WHERE sequence <= ?",
                    (upto,),
                )
                connection.execute("DELETE FROM events WHERE sequence <= ?", (upto,))
                forgotten = upto - EVENT_IDS_KEPT
                connection.execute("DELETE FROM told WHERE sequence <= ?", (forgotten,))
            connection.execute("DELETE FROM windows WHERE sequence <= ?", (telemetry,))

        self._database.run(delete)

    def begin_epoch_anew(self) -> None:
        """The controller has more of this epoch than was ever given here, so rows were lost that
        it has: a damaged WAL, an old image of the disk. Their numbers would be given again, and
        what comes under them be taken for what is known. All that waits is told in a new epoch.
        """

        def renumber(connection: Connection) -> str:
            acked = acknowledged(connection)
            given = last_event(connection)
            rows = {row[0]: row for row in connection.execute(EVENTS_FROM, (acked + 1, -1))}
            events = [self._event_of(each, rows.get(each)) for each in range(acked + 1, given + 1)]
            windows = [
                window
                for row in connection.execute(WINDOWS_FROM, (1, -1)).fetchall()
                if (window := self._window_of(row)) is not None
            ]
            for table in ("events", "windows"):
                connection.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
            # What was told before stays known, under numbers before the first.
            connection.execute("UPDATE told SET sequence = sequence - ?", (acked,))
            for number, event in enumerate(events, start=1):
                insert_event(connection, event.model_copy(update={"sequence": number}))
            for number, window in enumerate(windows, start=1):
                insert_window(connection, window.model_copy(update={"sequence": number}))
            epoch = self._new_epoch()
            set_meta(connection, EPOCH, epoch)
            set_meta(connection, EVENTS_ACKNOWLEDGED, "0")
            set_meta(connection, EVENTS_GIVEN, str(len(events)))
            set_meta(connection, WINDOWS_GIVEN, str(len(windows)))
            return epoch

        self._hold_epoch(self._database.run(renumber))
        self._lost_rows = True
