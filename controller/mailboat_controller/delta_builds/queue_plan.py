"""How the queue follows what is wanted, and when devices are told of what was built. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from mailboat_controller.delta_builds.wanted import Wanted
from mailboat_controller.store.deltas import PURPOSES_MAX, DeltaRow, Key, State

# An offer may come back, and a patch costs little disk; a row that nobody wants stays so long.
KEPT_FOR = timedelta(days=30)
# Deltas that are finished within this time are told together. Devices that came meanwhile have
# fetched the files whole, so it is short.
GATHER_MAX = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class QueueChange:
    put: tuple[DeltaRow, ...]
    removed: tuple[Key, ...]

    def __bool__(self) -> bool:
        return bool(self.put or self.removed)


def follow(rows: Iterable[DeltaRow], wanted: Mapping[Key, Wanted], now: datetime) -> QueueChange:
    """What is wanted and not there is queued; what is not wanted any more goes, built or not."""
    put: list[DeltaRow] = []
    removed: list[Key] = []
    known = set()
    for row in rows:
        known.add(row.key)
        wish = wanted.get(row.key)
        if wish is not None:
            changed = _told(row, wish)
            if changed != row:
                put.append(changed)
        elif row.state not in _KEPT and not row.ordered_by:
            removed.append(row.key)
        elif row.unwanted_since is None:
            put.append(replace(row, unwanted_since=now, devices=0))
        elif now - row.unwanted_since >= KEPT_FOR:
            removed.append(row.key)
    put += [queued(wish, now) for key, wish in wanted.items() if key not in known]
    return QueueChange(tuple(put), tuple(removed))


# Built ones are there for an offer that comes back, dropped ones so that they stay away.
_KEPT = frozenset({State.BUILT, State.NOT_WORTH, State.DROPPED})


def to_offer(rows: Iterable[DeltaRow], now: datetime) -> tuple[Key, ...]:
    """Built ones that devices are told of now: those of a class together, once nothing of it is
    to be built any more, or once one of them has waited for `GATHER_MAX`."""
    rows = tuple(rows)
    busy = {
        name
        for row in rows
        if row.state is State.BUILDING
        or (row.state is State.WAITING and row.next_attempt_at <= now)
        for name in _classes(row)
    }
    ready = [row for row in rows if row.state is State.BUILT and not row.offered]
    late = {row.key for row in ready if now - row.updated_at >= GATHER_MAX}
    # A class that is told of one is told of all: a message for each would be a storm.
    told = {name for row in ready if row.key in late for name in _classes(row)}
    return tuple(
        row.key
        for row in ready
        if row.key in late or _classes(row) & told or not _classes(row) & busy
    )


def _told(row: DeltaRow, wish: Wanted) -> DeltaRow:
    purposes = tuple(purpose.to_json() for purpose in wish.purposes[:PURPOSES_MAX])
    return replace(row, devices=wish.devices, purposes=purposes, unwanted_since=None)


def queued(wish: Wanted, now: datetime) -> DeltaRow:
    row = DeltaRow(
        key=wish.key,
        target_length=wish.target_length,
        base_length=wish.base_length,
        next_attempt_at=now,
        queued_at=now,
        updated_at=now,
    )
    return _told(row, wish)


def _classes(row: DeltaRow) -> set[str]:
    return {str(purpose["hardware_class"]) for purpose in row.purposes}
