"""The whole fleet in memory, for whoever looks at the grid: read once, then only what changed.

Of a hundred thousand devices it takes some seconds to read it (so it is read when somebody logs in)
and some 60 MB; after that a look is one pass over four columns of the registry. Ten minutes after
the last look it is let go. The words are those of everywhere else: presence is `presence.standing`,
a device in the eyes of a selector is `selection.subject_of`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum
from itertools import count, islice
from types import MappingProxyType
from typing import NamedTuple

import structlog

from mailboat_controller.console.turns import Turns
from mailboat_controller.explaining.selection import subject_of
from mailboat_controller.presence import Presence, Reach, Standing, standing
from mailboat_controller.sites.reach import reach_by_site
from mailboat_controller.store import audit, fleet_columns, overrides, sites
from mailboat_controller.store.engine import Store
from mailboat_controller.store.fleet_columns import FleetRow, Sign
from mailboat_controller.store.instants import from_ms
from mailboat_controller.store.overrides import OverrideRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.errors import MailboatError
from mailboat_schemas.reports import ModelPhase
from mailboat_schemas.selectors import Subject

ROWS_AT_ONCE = 2000
# More devices are not drawn: the list says so, and a selector makes it fewer.
DEVICES_MAX = 200_000
LOOKED_AT_SECONDS = 600.0
TURN_ROWS = 500  # at each look, so that whatever nobody told is seen in some minutes
# Younger is shown as it is. Older, up to BEARABLE, is shown and read again behind the answer; who
# keeps a page up to date is told of the difference at once.
FRESH = timedelta(seconds=5)
BEARABLE = timedelta(seconds=60)
# Holds and pins end by time, and nobody writes that down.
ORDERS_READ_EVERY = timedelta(minutes=1)

_UNDER_WAY = frozenset({ModelPhase.STAGING, ModelPhase.TRIAL, ModelPhase.SOAK})


_log = structlog.get_logger(__name__)

_NO_NOTES: Mapping[str, str] = MappingProxyType({})


class State(IntEnum):
    """One state for each device, the first that is so in the order of `_state`."""

    UNKNOWN = 0
    ONLINE = 1
    OFFLINE = 2
    IN_PROGRESS = 3
    FAILED = 4
    REVOKED = 5


class Cell(NamedTuple):
    """A device as the grid knows it. There are as many as devices, so it holds little."""

    number: int  # of its enrolment
    subject: Subject  # as selectors see it
    state: State
    because: str  # why it failed, or why that is all we can say; "" where there is nothing to say
    seen_at: datetime | None


@dataclass(frozen=True, slots=True)
class Picture:
    """The fleet at an instant. ``cells`` are by enrolment number; ``shape`` counts up when a device
    came or moved, ``revision`` with whatever was heard."""

    revision: int
    shape: int
    read_at: datetime
    cells: Mapping[int, Cell]
    left_out: int

    def changes_since(self, before: "Picture") -> list[tuple[int, State]]:
        """Devices whose state is another, by enrolment number."""
        held = before.cells
        found = []
        for number, cell in self.cells.items():
            old = held.get(number)
            # Who was not heard of is the very same cell.
            if old is not cell and (old is None or old.state is not cell.state):
                found.append((number, cell.state))
        return found


@dataclass
class _Orders:
    """What operators said of single devices, as it was read last."""

    by_device: Mapping[str, tuple[OverrideRow, ...]] = field(default_factory=dict)
    notes: Mapping[str, dict[str, str]] = field(default_factory=dict)
    audited: int = -1
    read_at: datetime | None = None


class FleetPicture:
    """Reads the fleet and what changed of it. Safe to use from many threads: one reads, and the
    others, if they are few, wait for what it found."""

    def __init__(self, store: Store, reach: Callable[[], Reach]) -> None:
        self._store = store
        self._reach = reach
        self._reading = Turns("The fleet is read")
        self._held: Picture | None = None
        self._signs: dict[int, Sign] = {}
        self._ways: tuple[Reach, Mapping[str, Reach]] = (Reach(), {})
        self._failed: Mapping[str, str] = {}
        self._event = self._turn = 0
        self._told_before: set[str] = set()
        self._orders = _Orders()
        self._revisions = count(1)
        self._looked_at = time.monotonic()

    @property
    def held(self) -> Picture | None:
        return self._held

    def rest(self) -> None:
        """Let go of everything, if nobody has looked for `LOOKED_AT_SECONDS`."""
        if not self._reading.taken and time.monotonic() - self._looked_at >= LOOKED_AT_SECONDS:
            with self._reading.turn():
                self._held, self._signs, self._orders = None, {}, _Orders()

    def latest(self, now: datetime) -> Picture:
        """For who must not wait: as it was at most `BEARABLE` ago."""
        held = self._held
        self._looked_at = time.monotonic()
        if held is not None and timedelta() <= now - held.read_at < BEARABLE:
            return held
        return self.look(now, age_max=BEARABLE)

    def refresh(self, now: datetime) -> None:
        """For after an answer that showed what is no longer new, if nobody else is looking."""
        held = self._held
        if self._reading.taken or (held is not None and now - held.read_at < FRESH):
            return
        self._looked_at = time.monotonic()
        try:
            self.look(now, age_max=FRESH)
        except MailboatError as error:
            _log.warning("the fleet cannot be read", problem=str(error))

    def look(self, now: datetime, *, age_max: timedelta) -> Picture:
        """The fleet as it was less than ``age_max`` ago.

        Raises:
            TooManyWait: it is being read, and many wait for it.
        """
        self._looked_at = time.monotonic()
        with self._reading.turn():
            held = self._held
            if held is None or not timedelta() <= now - held.read_at < age_max:
                with self._store.read() as tx:
                    held = self._read(tx, now)
                self._held = held
            return held

    def _read(self, tx: Transaction, now: datetime) -> Picture:
        held = self._held
        signs = fleet_columns.signs(tx, limit=DEVICES_MAX)
        left_out = fleet_columns.count(tx) - DEVICES_MAX if len(signs) == DEVICES_MAX else 0
        failed = fleet_columns.failed(tx)
        told_of = self._read_orders(tx, now)
        ways = (self._reach(), reach_by_site(tx, [row.name for row in sites.every(tx)], now))
        known = {} if held is None else dict(held.cells)
        told, newest = self._told_events(tx)
        if held is None or ways[0] != self._ways[0]:
            rows = _every(tx)
        else:
            told_of |= told | _differing(self._failed, failed)
            at_sites = _differing(self._ways[1], ways[1])
            rows = fleet_columns.rows_of(tx, self._to_read(signs, known, told_of, at_sites))
        moved = differs = held is None
        for row in rows:
            cell = self._cell(row, ways, failed.get(row.device, ""), now)
            before = known.get(cell.number)
            if before is None or _place(before) != _place(cell):
                moved = True
            differs = differs or before is None or before[:4] != cell[:4]
            known[cell.number] = cell
        self._signs, self._ways, self._failed, self._event = signs, ways, failed, newest
        revision = next(self._revisions) if differs or held is None else held.revision
        shape = revision if moved or held is None else held.shape
        return Picture(revision, shape, now, known, left_out)

    def _to_read(
        self,
        signs: Mapping[int, Sign],
        known: dict[int, Cell],
        told_of: set[str],
        at_sites: set[str],
    ) -> list[int]:
        """Whose rows to read: who came or went, those of which somebody told something, those at
        sites whose link is another, and some more in their turn. Who was merely heard of is
        brought up to date here: in a large fleet those are thousands a second."""
        before, numbers = self._signs, set[int]()
        for number, sign in signs.items():
            old = before.get(number)
            if old == sign:
                continue
            cell = known.get(number)
            online, presence_at, seen_at_ms, revoked = sign
            same = old is not None and (old[0], old[1], old[3]) == (online, presence_at, revoked)
            # One that was unknown may be known by being heard of (`presence.standing`).
            if same and cell is not None and seen_at_ms and cell.state is not State.UNKNOWN:
                known[number] = cell._replace(seen_at=from_ms(seen_at_ms))
            else:
                numbers.add(number)
        if told_of or at_sites:
            subjects = ((n, cell.subject) for n, cell in known.items())
            numbers |= {n for n, s in subjects if s.device in told_of or s.site in at_sites}
        turn = list(islice((n for n in signs if n > self._turn), TURN_ROWS))
        self._turn = turn[-1] if turn and len(turn) == TURN_ROWS else 0
        return sorted(numbers.union(turn))

    def _told_events(self, tx: Transaction) -> tuple[set[str], int]:
        """Devices whose models may have changed. Those of the look before too: a report may come
        after its event."""
        if self._held is None:
            self._told_before = set()
            return set(), fleet_columns.newest_event(tx)
        told, newest = fleet_columns.told_events(tx, after=self._event)
        both, self._told_before = told | self._told_before, told
        return both, newest

    def _cell(
        self,
        row: FleetRow,
        ways: tuple[Reach, Mapping[str, Reach]],
        failed_because: str,
        now: datetime,
    ) -> Cell:
        ours, links = ways
        link = links.get(row.site)
        stands = standing(row, ours) if link is None else standing(row, ours, link)
        orders = self._orders.by_device.get(row.device, ())
        live = [each for each in orders if each.expires_at > now]
        notes = self._orders.notes.get(row.device, _NO_NOTES)
        subject = subject_of(row, stands.presence.value, live, notes)
        state = _state(row, stands, failed_because)
        because = failed_because if state is State.FAILED else stands.because
        return Cell(row.enrolment_number, subject, state, because, row.last_seen_at)

    def _read_orders(self, tx: Transaction, now: datetime) -> set[str]:
        """Read again what operators said, if they did; returns of which devices it is another."""
        held = self._orders
        audited, _ = audit.head(tx)
        fresh = held.read_at is not None and now - held.read_at < ORDERS_READ_EVERY
        if audited == held.audited and fresh:
            return set()
        orders = overrides.every(tx)
        live = {
            device: tuple(each for each in of_device if each.expires_at > now)
            for device, of_device in orders.items()
        }
        self._orders = _Orders(live, fleet_columns.notes(tx), audited, now)
        return _differing(held.by_device, live) | _differing(held.notes, self._orders.notes)


def _every(tx: Transaction) -> list[FleetRow]:
    found: list[FleetRow] = []
    while len(found) < DEVICES_MAX:
        after = found[-1].enrolment_number if found else 0
        limit = min(ROWS_AT_ONCE, DEVICES_MAX - len(found))
        rows = fleet_columns.rows(tx, after=after, limit=limit)
        if not rows:
            break
        found += rows
    return found


def _state(row: FleetRow, stands: Standing, failed_because: str) -> State:
    if row.revoked:
        return State.REVOKED
    if failed_because:
        return State.FAILED
    if stands.presence is Presence.UNKNOWN:
        return State.UNKNOWN
    if stands.presence is Presence.OFFLINE:
        return State.OFFLINE
    models = (row.report or {}).get("models", ())
    return State.IN_PROGRESS if any(m["phase"] in _UNDER_WAY for m in models) else State.ONLINE


def _place(cell: Cell) -> tuple[str, str]:
    return cell.subject.hardware_class, cell.subject.site


def _differing(before: Mapping[str, object], after: Mapping[str, object]) -> set[str]:
    names = before.keys() | after.keys()
    return {name for name in names if before.get(name) != after.get(name)}
