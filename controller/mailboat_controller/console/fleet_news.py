"""Of which devices somebody told something since the look before: their events, what operators
ordered, verdicts. Each from an index, so that it costs nothing for a fleet that is as it was."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType

from mailboat_controller.store import audit, fleet_columns, overrides
from mailboat_controller.store.overrides import OverrideRow
from mailboat_controller.store.transaction import Transaction

# Holds and pins end by time, and nobody writes that down.
ORDERS_READ_EVERY = timedelta(minutes=1)
# What a device reports of its models may come after its event.
REPORT_LATER = timedelta(seconds=10)

_NO_NOTES: Mapping[str, str] = MappingProxyType({})


@dataclass
class FleetNews:
    """What was read last; `heard` brings it up to now."""

    failed: Mapping[str, str] = field(default_factory=dict)  # because, by device
    _orders: Mapping[str, tuple[OverrideRow, ...]] = field(default_factory=dict)
    _notes: Mapping[str, dict[str, str]] = field(default_factory=dict)
    _orders_read_at: datetime | None = None
    _audited: int | None = None
    _event: int | None = None
    _untaken: set[str] = field(default_factory=set)
    _later: deque[tuple[datetime, set[str]]] = field(default_factory=deque)

    def orders_of(self, device: str, now: datetime) -> list[OverrideRow]:
        return [each for each in self._orders.get(device, ()) if each.expires_at > now]

    def notes_of(self, device: str) -> Mapping[str, str]:
        return self._notes.get(device, _NO_NOTES)

    def heard(self, tx: Transaction, now: datetime) -> set[str]:
        """Devices to read again, until they are `taken`: reading them may fail."""
        failed = fleet_columns.failed(tx)
        self._untaken |= differing(self.failed, failed)
        self.failed = failed
        self._untaken |= self._events(tx, now)
        self._untaken |= self._operators(tx, now)
        return set(self._untaken)

    def taken(self) -> None:
        self._untaken.clear()

    def _events(self, tx: Transaction, now: datetime) -> set[str]:
        if self._event is None:
            self._event = fleet_columns.newest_event(tx)
            return set()
        told, self._event = fleet_columns.told_events(tx, after=self._event)
        if told:
            self._later.append((now + REPORT_LATER, told))
        devices = set(told)
        while self._later and not now < self._later[0][0] <= now + REPORT_LATER:
            devices |= self._later.popleft()[1]
        return devices

    def _operators(self, tx: Transaction, now: datetime) -> set[str]:
        """Read again what operators said, if they did."""
        audited, _ = audit.head(tx)
        before, read_at = self._audited, self._orders_read_at
        if audited == before and read_at and now - read_at < ORDERS_READ_EVERY:
            return set()
        subjects = set() if before is None else fleet_columns.told_audit(tx, after=before)
        orders = {
            device: tuple(each for each in of_device if each.expires_at > now)
            for device, of_device in overrides.every(tx).items()
        }
        notes = fleet_columns.notes(tx)
        other = differing(self._orders, orders) | differing(self._notes, notes)
        self._orders, self._notes = orders, notes
        self._audited, self._orders_read_at = audited, now
        return subjects | other


def differing(before: Mapping[str, object], after: Mapping[str, object]) -> set[str]:
    names = before.keys() | after.keys()
    return {name for name in names if before.get(name) != after.get(name)}
