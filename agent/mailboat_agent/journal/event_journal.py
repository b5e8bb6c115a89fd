"""The outbox on disk: state events and telemetry windows, until the controller has them.

The journal is *not* the authority on what runs: a damaged one is moved aside, a new one with a new
epoch begins, and the state says which events to tell again.

Sequences are given here, one after the other, and never reused. The outbox sends in order and
cannot pass over a number, so an event whose row is damaged or gone is handed out as a
STORAGE_DAMAGED event. A damaged window is deleted, and an event tells of it. What telemetry is held
is in `telemetry_buffer`.
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
    SCHEMA,
    WINDOWS_GIVEN,
    WINDOWS_RECORDED,
    BatchSize,
    acknowledged,
    insert_event,
    is_whole,
    last_event,
    read_meta,
    sequence_of,
    set_meta,
)
from mailboat_agent.journal.telemetry_buffer import HandedOut, Held, TelemetryBuffer
from mailboat_agent.journal.thinning import Bounds
from mailboat_schemas.codec import decode
from mailboat_schemas.errors import DiskFull, MalformedPayload
from mailboat_schemas.events import Event, EventBatch, EventKind
from mailboat_schemas.reports import Span, TelemetryWindow

EVENTS_ROWS_MAX = 50_000  # an alarm, not a wall: a week offline at five a minute, about 20 MB
SEQUENCE_MAX = 1 << 53  # an event every millisecond for 285,000 years
TELEMETRY_BOUNDS = Bounds()
# Somebody will want to know what came next, second by second.
ANOMALIES = frozenset(
    {EventKind.TRIAL_FAILED, EventKind.ROLLED_BACK, EventKind.RETURNED, EventKind.DEGRADED}
    | {EventKind.NOTHING_TO_SERVE, EventKind.STORAGE_DAMAGED}
)
RENUMBERED_AT_ONCE = 500  # in memory; tens of thousands may wait
EVENT_IDS_KEPT = 10_000  # of acknowledged events, so that none is recorded a second time
_FORGET = "DELETE FROM events WHERE sequence BETWEEN ? AND ?"


class Journal:
    """Safe to use from several threads.

    Every operation may raise DiskFull (even the ballast was not enough) or DiskFailing; nothing has
    changed then, and what serves goes on.
    """

    def __init__(
        self, path: Path, rng: random.Random, telemetry: Bounds = TELEMETRY_BOUNDS
    ) -> None:
        """Opens or begins the journal. When the disk refuses, the next operation tries again."""
        self._rng = rng
        self._epoch = ""
        self._damaged_events: set[int] = set()
        self.damaged_rows = 0
        self.anomalies = 0  # events of these kinds that were recorded since the start
        self.telemetry_bounds = telemetry
        self._telemetry = TelemetryBuffer(self._note_damaged_windows, telemetry)
        self._lost_rows = False  # the controller has rows of this epoch that are not here
        self._database = JournalDatabase(path, begin=self._begin, resume=self._resume)
        with suppress(DiskFull, DiskFailing):
            self._database.run(lambda _: None)

    def _begin(self, connection: Connection) -> None:
        for statement in SCHEMA.split(";"):
            connection.execute(statement)
        set_meta(connection, EPOCH, self._new_epoch())
        for name in (EVENTS_ACKNOWLEDGED, EVENTS_GIVEN):
            set_meta(connection, name, "0")
        self._telemetry.begin(connection)

    def _new_epoch(self) -> str:
        return f"{self._rng.getrandbits(64):016x}"

    def _resume(self, connection: Connection) -> None:
        self._telemetry.forget()
        self._hold_epoch(read_meta(connection, EPOCH))
        # Every number is looked at now: one that does not hold is met before the first event is.
        if not 0 <= acknowledged(connection) <= last_event(connection) <= SEQUENCE_MAX:
            raise Damaged("its sequences contradict each other")
        for name in (WINDOWS_GIVEN, WINDOWS_RECORDED):
            if not 0 <= int(read_meta(connection, name)) <= SEQUENCE_MAX:
                raise Damaged("its last window has an impossible number")

    def _hold_epoch(self, epoch: str) -> None:
        self._epoch = epoch
        self._damaged_events.clear()

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
            self.anomalies += event.kind in ANOMALIES
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
            size = BatchSize(bytes_max, EventBatch.unpacked_bytes_max)
            for number in range(first, last + 1):
                row = by_sequence.get(number)
                if not size.takes(None if row is None else row[2]):
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
        """Durable when it returns; the number it was given. A full buffer merges older ones.

        Raises:
            DiskFull: at once; the ballast is for what must not be lost.
        """
        return self._database.run(
            lambda connection: self._telemetry.record(connection, window), worth_the_ballast=False
        )

    def windows_after(self, number: int, limit: int, bytes_max: int) -> list[TelemetryWindow]:
        """What is held, as it was recorded one after the other; bounds as for events."""
        return self._database.run(
            lambda connection: self._telemetry.look(connection, number, limit, bytes_max)
        )

    def windows_to_send(
        self, after: int, limit: int, bytes_max: int, *, newer_than: int = 0
    ) -> HandedOut:
        """Those that were handed out under a sequence above ``after``; when there are none, the
        newest that were recorded under a number above ``newer_than``, each with its sequence now.

        Raises:
            DiskFull: at once; they are sent when there is room to note it.
        """
        return self._database.run(
            lambda connection: self._telemetry.hand_out(
                connection, after, limit, bytes_max, newer_than
            ),
            worth_the_ballast=False,
        )

    def span_telemetry(self) -> Span:
        """What was handed out and not confirmed. Empty: last is first - 1."""
        return self._database.run(self._telemetry.span)

    def held_telemetry(self) -> Held:
        """What resolution is held of what time, and what it has cost."""
        return self._database.run(self._telemetry.held)

    def _note_damaged_windows(self, connection: Connection, count: int) -> None:
        """One event for all that one look has found."""
        self.damaged_rows += count
        sequence = last_event(connection) + 1
        insert_event(
            connection,
            Event(
                event_id=f"{self._epoch}:{sequence}:windows-damaged",
                sequence=sequence,
                kind=EventKind.STORAGE_DAMAGED,
                observed_at=0,  # found now; when it happened nobody knows
                code="journal_window",
                because=f"{count} telemetry windows were damaged on the device's disk; what they "
                "counted is lost.",
            ),
        )
        set_meta(connection, EVENTS_GIVEN, str(sequence))

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
            self._telemetry.confirm(connection, telemetry)

        self._database.run(delete)

    def begin_epoch_anew(self) -> None:
        """The controller has more of this epoch than was ever given here, so rows were lost that
        it has: a damaged WAL, an old image of the disk. Their numbers would be given again, and
        what comes under them be taken for what is known. All that waits is told in a new epoch.
        """

        def renumber(connection: Connection) -> str:
            acked = acknowledged(connection)
            given = last_event(connection)
            # What was told before stays known, under numbers before the first.
            connection.execute("UPDATE told SET sequence = sequence - ?", (acked,))
            connection.execute(_FORGET, (-SEQUENCE_MAX, acked))
            connection.execute(_FORGET, (given + 1, SEQUENCE_MAX))
            for first in range(acked + 1, given + 1, RENUMBERED_AT_ONCE):
                last = min(given, first + RENUMBERED_AT_ONCE - 1)
                found = connection.execute(EVENTS_FROM, (first, RENUMBERED_AT_ONCE))
                rows = {row[0]: row for row in found}
                events = [self._event_of(each, rows.get(each)) for each in range(first, last + 1)]
                connection.execute(_FORGET, (first, last))
                for number, event in enumerate(events, start=first - acked):
                    insert_event(connection, event.model_copy(update={"sequence": number}))
            epoch = self._new_epoch()
            set_meta(connection, EPOCH, epoch)
            set_meta(connection, EVENTS_ACKNOWLEDGED, "0")
            set_meta(connection, EVENTS_GIVEN, str(given - acked))
            self._telemetry.take_back(connection)
            return epoch

        self._hold_epoch(self._database.run(renumber))
        self._lost_rows = True
