"""Deltas: the queue of what is to be built, and what was built."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, insert, select, update

from mailboat_controller.store.delta_tables import delta_builds
from mailboat_controller.store.instants import from_ms, to_ms

_INSTANTS = ("next_attempt_at", "unwanted_since", "queued_at", "updated_at")
PURPOSES_MAX = 64  # of one row that are kept; more classes share a file only in a large fleet


class State(StrEnum):
    WAITING = "waiting"
    BUILDING = "building"
    BUILT = "built"
    NOT_WORTH = "not_worth"  # nothing that was built is worth shipping
    FAILED = "failed"  # every attempt; by hand it is tried again
    DROPPED = "dropped"  # by a person, until a person orders it


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """``base`` is empty for the ways without one. ``memory_bytes_max`` is a decoder's."""

    target: str
    base: str
    memory_bytes_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaRow:
    """Sizes in bytes. What was built stands from ``format`` on, empty or 0 while nothing was."""

    key: Key
    target_length: int
    base_length: int
    state: State = State.WAITING
    attempts: int = 0
    code: str = ""
    error: str = ""
    next_attempt_at: datetime
    format: str = ""
    patch: str = ""
    patch_length: int = 0
    memory_bytes: int = 0
    seconds: float = 0.0
    candidates: tuple[Mapping[str, Any], ...] = ()
    offered: bool = False
    devices: int = 0
    purposes: tuple[Mapping[str, Any], ...] = field(default=())
    ordered_by: str = ""
    unwanted_since: datetime | None = None
    queued_at: datetime
    updated_at: datetime

    def now_in(self, state: State, now: datetime, **news: Any) -> "DeltaRow":
        return replace(self, state=state, updated_at=now, **news)


def put(tx: Connection, row: DeltaRow) -> None:
    values = _values(row)
    changed = tx.execute(update(delta_builds).where(_is(row.key)).values(values))
    if not changed.rowcount:
        tx.execute(insert(delta_builds).values(values))


def find(tx: Connection, key: Key) -> DeltaRow | None:
    row = tx.execute(select(delta_builds).where(_is(key))).first()
    return None if row is None else _read(row)


def every(tx: Connection, *states: State) -> tuple[DeltaRow, ...]:
    """In the order they were queued; of these states, or all."""
    c = delta_builds.c
    query = select(delta_builds).order_by(c.queued_at, c.target, c.base, c.memory_bytes_max)
    if states:
        query = query.where(c.state.in_([state.value for state in states]))
    return tuple(_read(row) for row in tx.execute(query))


def of_targets(tx: Connection, targets: Sequence[str]) -> tuple[DeltaRow, ...]:
    """Every row that makes one of these files; there are a few for each."""
    c = delta_builds.c
    query = select(delta_builds).where(c.target.in_(list(targets))).order_by(c.target, c.base)
    return tuple(_read(row) for row in tx.execute(query))


def offered(tx: Connection) -> tuple[DeltaRow, ...]:
    """Built, and to be told."""
    c = delta_builds.c
    query = select(delta_builds).where(c.state == State.BUILT.value, c.offered.is_(True))
    return tuple(_read(row) for row in tx.execute(query))


def next_waiting(tx: Connection, now: datetime) -> DeltaRow | None:
    """Ordered by a person first, then what serves most devices, then what waits longest."""
    c = delta_builds.c
    due = and_(c.state == State.WAITING.value, c.next_attempt_at <= to_ms(now))
    order = ((c.ordered_by != "").desc(), c.devices.desc(), c.queued_at, c.target, c.base)
    row = tx.execute(select(delta_builds).where(due).order_by(*order).limit(1)).first()
    return None if row is None else _read(row)


def count_by_state(tx: Connection) -> dict[str, int]:
    c = delta_builds.c
    rows = tx.execute(select(c.state, func.count()).group_by(c.state))
    return {state: int(count) for state, count in rows}


def remove(tx: Connection, keys: Iterable[Key]) -> None:
    for key in keys:
        tx.execute(delete(delta_builds).where(_is(key)))


def offer(tx: Connection, keys: Iterable[Key]) -> None:
    for key in keys:
        tx.execute(update(delta_builds).where(_is(key)).values(offered=True))


def _is(key: Key) -> ColumnElement[bool]:
    c = delta_builds.c
    return and_(
        c.target == key.target,
        c.base == key.base,
        c.memory_bytes_max == key.memory_bytes_max,
    )


def _values(row: DeltaRow) -> dict[str, Any]:
    names = [name for name in row.__slots__ if name != "key"]
    content = {name: getattr(row, name) for name in names}
    for name in _INSTANTS:
        content[name] = None if content[name] is None else to_ms(content[name])
    return {
        **content,
        "target": row.key.target,
        "base": row.key.base,
        "memory_bytes_max": row.key.memory_bytes_max,
        "state": row.state.value,
        "ordered_by": row.ordered_by[:128],
        "candidates": [dict(each) for each in row.candidates],
        "purposes": [dict(each) for each in row.purposes[:PURPOSES_MAX]],
    }


def _read(row: Row[Any]) -> DeltaRow:
    content: dict[str, Any] = dict(row._mapping)
    key = Key(*(content.pop(name) for name in ("target", "base", "memory_bytes_max")))
    for name in _INSTANTS:
        content[name] = None if content[name] is None else from_ms(content[name])
    content["state"] = State(content["state"])
    content["candidates"] = tuple(content["candidates"])
    content["purposes"] = tuple(content["purposes"])
    return DeltaRow(key=key, **content)
