"""What a batch of messages brings, gathered over many of them and written with one statement each.

A statement costs as much as some dozens of rows, and most messages bring one row.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from mailboat_controller.ingest.failure_lines import Failing
from mailboat_controller.ingest.fleet_figures import FleetFigures
from mailboat_controller.store import (
    deliveries,
    drills,
    events,
    exit_evidence,
    outcomes,
    site_orders,
    telemetry,
)
from mailboat_controller.store.devices import DeviceRow
from mailboat_controller.store.events import UnreadRow
from mailboat_controller.store.tables import UNKNOWN_KIND
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.events import Event, EventKind
from mailboat_schemas.reports import TelemetryWindow

# Some ten megabytes: the largest batch of messages brings fifty times as many rows.
ROWS_MAX = 2000
FAILURES = frozenset({EventKind.TRIAL_FAILED, EventKind.ROLLED_BACK, EventKind.RELEASE_REFUSED})


class PendingRows:
    """Rows of one transaction, in the order they came. `write` before anything reads them."""

    def __init__(self, tx: Transaction, now: datetime, figures: FleetFigures) -> None:
        """
        Args:
            figures: told of everything that was written.
        """
        self._tx = tx
        self._now = now
        self._figures = figures
        self._events: list[tuple[DeviceRow, str, Sequence[Event | UnreadRow]]] = []
        self._windows: list[tuple[DeviceRow, str, Sequence[TelemetryWindow]]] = []
        self._held = 0
        self.changed = False  # an outcome did, so a rollout may decide otherwise
        self.kinds: Counter[str] = Counter()  # of events that were written
        self.failures: Counter[Failing] = Counter()  # of those written
        self.windows = 0

    def add_events(self, row: DeviceRow, epoch: str, rows: Sequence[Event | UnreadRow]) -> None:
        self._events.append((row, epoch, rows))
        self._write_if_many(len(rows))

    def add_windows(self, row: DeviceRow, epoch: str, windows: Sequence[TelemetryWindow]) -> None:
        self._windows.append((row, epoch, windows))
        self._write_if_many(len(windows))

    def write(self) -> None:
        # Whoever undoes a write that fails is rid of its rows here as well.
        new_events, self._events = self._events, []
        new_windows, self._windows = self._windows, []
        self._held = 0
        if new_events:
            self._write_events(new_events)
        if new_windows:
            self._write_windows(new_windows)

    def _write_events(
        self, new: Sequence[tuple[DeviceRow, str, Sequence[Event | UnreadRow]]]
    ) -> None:
        rows = [
            content
            for row, epoch, some in new
            for content in events.rows_of(row.device, epoch, some, self._now)
        ]
        events.write(self._tx, rows)
        read = [
            (row, [event for event in some if isinstance(event, Event)]) for row, _, some in new
        ]
        told = [(row.device, event) for row, some in read for event in some]
        self.changed = outcomes.fold_all(self._tx, told, self._now) or self.changed
        drills.fold_all(self._tx, told, self._now)
        site_orders.note_all(self._tx, read, self._now)
        self.changed = exit_evidence.fold_all(self._tx, told, self._now) or self.changed
        by_class: dict[str, list[Event]] = {}
        for row, some in read:
            by_class.setdefault(row.hardware_class, []).extend(some)
            self._figures.add_events(row, some)
        for hardware_class in sorted(by_class):
            deliveries.fold(self._tx, hardware_class, by_class[hardware_class])
        self.kinds.update(
            event.kind.value if isinstance(event, Event) else UNKNOWN_KIND
            for _, _, some in new
            for event in some
        )
        self.failures.update(
            (event.digest, event.kind) for _, event in told if event.kind in FAILURES
        )

    def _write_windows(
        self, new: Sequence[tuple[DeviceRow, str, Sequence[TelemetryWindow]]]
    ) -> None:
        rows = [
            content
            for row, epoch, some in new
            for content in telemetry.rows_of(
                row.device, epoch, some, self._now, clock_offset_ms=row.clock_offset_ms or 0
            )
        ]
        telemetry.write(self._tx, rows)
        for row, _, some in new:
            self._figures.add_windows(row, some)
        self.windows += len(rows)

    def _write_if_many(self, added: int) -> None:
        self._held += added
        if self._held >= ROWS_MAX:
            self.write()
