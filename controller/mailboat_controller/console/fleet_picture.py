"""The whole fleet in memory, for whoever looks at the grid: read once, then only what changed.

Of a hundred thousand devices it takes some seconds to read it (so it is read when somebody logs in)
and some 60 MB; after that a look is one pass over four columns of the registry, and between two
looks a glance reads from indexes alone who came or went, and of whom somebody told something. Ten
minutes after the last look it is let go. The words are those of everywhere else: presence is
`presence.standing`, a device in the eyes of a selector is `selection.subject_of`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum
from itertools import count, islice
from typing import NamedTuple

import structlog

from mailboat_controller.console.fleet_news import FleetNews, differing
from mailboat_controller.console.turns import Turns
from mailboat_controller.explaining.selection import subject_of
from mailboat_controller.presence import HeardOf, Presence, Reach, Standing, standing
from mailboat_controller.sites.reach import reach_by_site
from mailboat_controller.store import fleet_columns, sites
from mailboat_controller.store.engine import Store
from mailboat_controller.store.fleet_columns import FleetRow, Sign
from mailboat_controller.store.instants import from_ms, to_ms
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
# More than so many at a glance take as long as a look at all.
GLANCED_MAX = 20_000
# What is told is committed so much later at most, or it is seen at the next look.
LATE = timedelta(seconds=15)

# The way from every device to us, and from those of sites that are cut off.
_Ways = tuple[Reach, Mapping[str, Reach]]

_UNDER_WAY = frozenset({ModelPhase.STAGING, ModelPhase.TRIAL, ModelPhase.SOAK})

_log = structlog.get_logger(__name__)


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
    under_way: bool  # a release is staged, tried or soaked, as it reported last


class _Heard(NamedTuple):
    """What a sign says, as `presence.standing` asks it."""

    online: bool | None
    presence_at: datetime | None
    last_seen_at: datetime | None


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


class FleetPicture:
    """Reads the fleet and what changed of it. Safe to use from many threads: one reads, and the
    others, if they are few, wait for what it found."""

    def __init__(self, store: Store, reach: Callable[[], Reach]) -> None:
        self._store = store
        self._reach = reach
        self._reading = Turns("The fleet is read")
        self._held: Picture | None = None
        self._signs: dict[int, Sign] = {}
        self._ways: _Ways = (Reach(), {})
        self._turn = 0
        self._news = FleetNews()
        self._revisions = count(1)
        self._looked_at = time.monotonic()

    @property
    def held(self) -> Picture | None:
        return self._held

    def rest(self) -> None:
        """Let go of everything, if nobody has looked for `LOOKED_AT_SECONDS`."""
        if not self._reading.taken and time.monotonic() - self._looked_at >= LOOKED_AT_SECONDS:
            with self._reading.turn():
                self._held, self._signs, self._news = None, {}, FleetNews()

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

    def glance(self, now: datetime) -> Picture:
        """The fleet with what indexes tell of changes; a look where there is no picture yet, or
        more changed than that is good for.

        Raises:
            TooManyWait
        """
        self._looked_at = time.monotonic()
        with self._reading.turn():
            held = self._held
            with self._store.read() as tx:
                signs = None if held is None else self._signs_of_news(tx, held)
                if held is None or signs is None or self._ways[0] != self._reach():
                    found = self._read(tx, now)
                else:
                    numbers = self._changed(signs, known := dict(held.cells))
                    numbers |= _told_of(known, self._news.heard(tx, now), set())
                    rows = fleet_columns.rows_of(tx, sorted(numbers))
                    self._signs |= signs
                    found = self._brought_up(held, known, rows, now)
            self._held = found
            return found

    def _signs_of_news(self, tx: Transaction, held: Picture) -> dict[int, Sign] | None:
        since_ms = to_ms(held.read_at - LATE)
        above = max(self._signs, default=0)
        room = DEVICES_MAX - len(self._signs)
        return fleet_columns.signs_of_news(
            tx, since_ms=since_ms, above=above, limit=min(GLANCED_MAX, room)
        )

    def _read(self, tx: Transaction, now: datetime) -> Picture:
        held = self._held
        signs = fleet_columns.signs(tx, limit=DEVICES_MAX)
        left_out = fleet_columns.count(tx) - DEVICES_MAX if len(signs) == DEVICES_MAX else 0
        told_of = self._news.heard(tx, now)
        ways = (self._reach(), reach_by_site(tx, [row.name for row in sites.every(tx)], now))
        if held is None:
            known, rows = {}, _every(tx)
        else:
            known = dict(held.cells)
            if ways[0] == self._ways[0]:
                numbers = self._changed(signs, known)
                numbers |= _told_of(known, told_of, differing(self._ways[1], ways[1]))
            else:
                # Every one of them stands another way now, and none told anything for it.
                known = {
                    number: self._standing_anew(cell, signs[number], ways)
                    for number, cell in known.items()
                    if number in signs
                }
                numbers = self._changed(signs, known) | _told_of(known, told_of, set())
            rows = fleet_columns.rows_of(tx, sorted(numbers.union(self._in_turn(signs))))
        self._signs, self._ways = signs, ways
        base = Picture(0, 0, now, {}, left_out) if held is None else held
        return self._brought_up(replace(base, left_out=left_out), known, rows, now)

    def _brought_up(
        self, held: Picture, known: dict[int, Cell], rows: Sequence[FleetRow], now: datetime
    ) -> Picture:
        """The picture with these rows. ``known``: its cells, some of them others already."""
        for row in rows:
            cell = self._cell(row, now)
            known[cell.number] = cell
        moved = differs = not held.revision
        for number, cell in known.items():
            before = held.cells.get(number)
            if before is cell:
                continue
            if before is None or _place(before) != _place(cell):
                moved = True
            differs = differs or before is None or before[:4] != cell[:4]
        self._news.taken()
        revision = next(self._revisions) if differs or moved else held.revision
        return Picture(revision, revision if moved else held.shape, now, known, held.left_out)

    def _changed(self, signs: Mapping[int, Sign], known: dict[int, Cell]) -> set[int]:
        """Whose rows to read, by their signs. Who was merely heard of is brought up to date here:
        in a large fleet those are thousands a second."""
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
        return numbers

    def _in_turn(self, signs: Mapping[int, Sign]) -> list[int]:
        """Some more at each look, so that whatever nobody told is seen."""
        turn = list(islice((n for n in signs if n > self._turn), TURN_ROWS))
        self._turn = turn[-1] if turn and len(turn) == TURN_ROWS else 0
        return turn

    def _cell(self, row: FleetRow, now: datetime) -> Cell:
        stands = _stands(row, row.site, self._ways)
        orders, notes = self._news.orders_of(row.device, now), self._news.notes_of(row.device)
        subject = subject_of(row, stands.presence.value, orders, notes)
        models = (row.report or {}).get("models", ())
        under_way = any(m["phase"] in _UNDER_WAY for m in models)
        failed = self._news.failed.get(row.device, "")
        state, because = _state(stands, failed, revoked=bool(row.revoked), under_way=under_way)
        return Cell(row.enrolment_number, subject, state, because, row.last_seen_at, under_way)

    def _standing_anew(self, cell: Cell, sign: Sign, ways: _Ways) -> Cell:
        online, presence_ms, seen_ms, revoked = sign
        at = None if presence_ms is None else from_ms(presence_ms)
        seen_at = None if seen_ms is None else from_ms(seen_ms)
        heard = _Heard(None if online is None else bool(online), at, seen_at)
        stands = _stands(heard, cell.subject.site, ways)
        failed = self._news.failed.get(cell.subject.device, "")
        state, because = _state(stands, failed, revoked=bool(revoked), under_way=cell.under_way)
        subject = replace(cell.subject, presence=stands.presence.value)
        return Cell(cell.number, subject, state, because, seen_at, cell.under_way)


def _told_of(known: Mapping[int, Cell], devices: set[str], at_sites: set[str]) -> set[int]:
    if not devices and not at_sites:
        return set()
    subjects = ((number, cell.subject) for number, cell in known.items())
    return {n for n, s in subjects if s.device in devices or s.site in at_sites}


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


def _stands(heard: HeardOf, site: str, ways: _Ways) -> Standing:
    ours, links = ways
    link = links.get(site)
    return standing(heard, ours) if link is None else standing(heard, ours, link)


def _state(stands: Standing, failed: str, *, revoked: bool, under_way: bool) -> tuple[State, str]:
    """With why it is so. ``failed``: because, or ""."""
    if revoked:
        return State.REVOKED, stands.because
    if failed:
        return State.FAILED, failed
    if stands.presence is Presence.UNKNOWN:
        return State.UNKNOWN, stands.because
    if stands.presence is Presence.OFFLINE:
        return State.OFFLINE, stands.because
    return (State.IN_PROGRESS if under_way else State.ONLINE), stands.because


def _place(cell: Cell) -> tuple[str, str]:
    return cell.subject.hardware_class, cell.subject.site
