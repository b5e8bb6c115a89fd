"""The fold of a device's events for one release, kept up to date as events arrive."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, func, select, update

from mailboat_controller.rollout.members import Outcome, stronger
from mailboat_controller.store import tables
from mailboat_controller.store.devices import NAMES_AT_ONCE
from mailboat_controller.store.events import RETRY_EPOCH_MAX
from mailboat_controller.store.instants import to_ms
from mailboat_controller.store.many_rows import ManyRows
from mailboat_controller.store.plain_json import plain
from mailboat_schemas.events import Event, EventKind

_outcomes = tables.outcomes
_asked = select(
    _outcomes.c.device,
    _outcomes.c.retry_epoch,
    _outcomes.c.outcome,
    _outcomes.c.code,
    _outcomes.c.because,
    _outcomes.c.exposed_at,
)
_OUTCOME = {outcome.value: outcome for outcome in Outcome}

OUTCOME_OF = {
    EventKind.RELEASE_REFUSED: Outcome.REFUSED,
    EventKind.TRIAL_STARTED: Outcome.EXPOSED,
    EventKind.SOAK_STARTED: Outcome.EXPOSED,
    EventKind.RETURNED: Outcome.RETURNED,
    EventKind.COMMITTED: Outcome.OK,
    EventKind.TRIAL_FAILED: Outcome.FAILED,
    EventKind.ROLLED_BACK: Outcome.FAILED,
}


class OutcomeRow(NamedTuple):
    device: str
    retry_epoch: int
    outcome: Outcome
    code: str
    because: str
    exposed_at_ms: int | None = None  # by the controller's clock; None: never exposed
    fetched: bool = False  # known by its download alone, see `store.redemptions`


def fold(tx: Connection, device: str, events: Iterable[Event], now: datetime) -> bool:
    """Take events into the outcomes; says whether any outcome changed."""
    return fold_all(tx, [(device, event) for event in events], now)


def fold_all(tx: Connection, told: Sequence[tuple[str, Event]], now: datetime) -> bool:
    """Take events of many devices, each with its device's name, into the outcomes in this order;
    says whether any outcome changed."""
    verdicts = [
        (_Key(event.digest, device, min(event.retry_epoch, RETRY_EPOCH_MAX)), event)
        for device, event in told
        if event.kind in OUTCOME_OF and event.digest is not None
    ]
    if not verdicts:
        return False
    before = _held(tx, {key for key, _ in verdicts})
    held = dict(before)
    changed = False
    for key, event in verdicts:
        known = held.get(key)
        now_held = _folded(known, event, OUTCOME_OF[event.kind], to_ms(now))
        changed = changed or known is None or known.outcome is not now_held.outcome
        held[key] = now_held
    _write(tx, before, held)
    return changed


class _Key(NamedTuple):
    digest: str
    device: str
    retry_epoch: int


class _Held(NamedTuple):
    outcome: Outcome
    code: str
    because: str
    exposed_at: int | None
    updated_at: int


def _folded(held: _Held | None, event: Event, told: Outcome, now_ms: int) -> _Held:
    """What is held once this event was told as well. Pure."""
    exposed_at = None if told is Outcome.REFUSED else now_ms
    code, because = plain(event.code), plain(event.because)
    if held is None:
        return _Held(told, code, because, exposed_at, now_ms)
    if stronger(held.outcome, told) is not held.outcome:
        exposed_at = held.exposed_at if held.exposed_at is not None else exposed_at
        return _Held(told, code, because, exposed_at, now_ms)
    # Of two equal outcomes the words of one are kept, the same one in whatever order they come.
    if told is held.outcome and (code, because) < (held.code, held.because):
        return held._replace(code=code, because=because, updated_at=now_ms)
    return held


def _held(tx: Connection, keys: Collection[_Key]) -> dict[_Key, _Held]:
    c = _outcomes.c
    found: dict[_Key, _Held] = {}
    digests = sorted({key.digest for key in keys})
    names = sorted({key.device for key in keys})
    for some_digests in _in_parts(digests):
        for some_names in _in_parts(names):
            query = select(_outcomes).where(c.digest.in_(some_digests), c.device.in_(some_names))
            for row in tx.execute(query):
                key = _Key(row.digest, row.device, row.retry_epoch)
                if key in keys:
                    found[key] = _Held(
                        _OUTCOME[row.outcome],
                        row.code,
                        row.because,
                        row.exposed_at,
                        row.updated_at,
                    )
    return found


def _in_parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(names), NAMES_AT_ONCE):
        yield names[first : first + NAMES_AT_ONCE]


_INSERT = ManyRows.into(_outcomes, (*_Key._fields, *_Held._fields))
_UPDATE = ManyRows(
    update(_outcomes)
    .where(
        _outcomes.c.digest == bindparam("of_digest"),
        _outcomes.c.device == bindparam("of_device"),
        _outcomes.c.retry_epoch == bindparam("of_retry_epoch"),
    )
    .values(
        {name: bindparam(f"new_{name}") for name in _Held._fields},
    ),
    [f"of_{name}" for name in _Key._fields] + [f"new_{name}" for name in _Held._fields],
)


def _write(tx: Connection, before: Mapping[_Key, _Held], held: Mapping[_Key, _Held]) -> None:
    new: list[tuple[Any, ...]] = []
    other: list[tuple[Any, ...]] = []
    for key, each in held.items():
        known = before.get(key)
        if known != each:
            rows = new if known is None else other
            rows.append((*key, each.outcome.value, *each[1:]))
    _INSERT.run(tx, new)
    _UPDATE.run(tx, other)


def of_release(tx: Connection, digest: str) -> tuple[OutcomeRow, ...]:
    """By device and retry epoch."""
    c = _outcomes.c
    return _read(
        tx.execute(_asked.where(c.digest == digest).order_by(c.device, c.retry_epoch)).fetchall()
    )


def digests_of(tx: Connection, device: str) -> frozenset[str]:
    """Of the releases a device has said anything about."""
    c = tables.outcomes.c
    return frozenset(tx.execute(select(c.digest).where(c.device == device).distinct()).scalars())


def count_by_outcome(tx: Connection, digest: str) -> dict[str, int]:
    """Devices by what became of a release on them, of the newest try of each; 0 where it is
    none."""
    c = _outcomes.c
    newest = (
        select(c.device, func.max(c.retry_epoch).label("retry_epoch"))
        .where(c.digest == digest)
        .group_by(c.device)
        .subquery()
    )
    same = (c.device == newest.c.device) & (c.retry_epoch == newest.c.retry_epoch)
    rows = tx.execute(
        select(c.outcome, func.count())
        .select_from(_outcomes.join(newest, same))
        .where(c.digest == digest)
        .group_by(c.outcome)
    )
    return dict.fromkeys((each.value for each in Outcome), 0) | {row[0]: row[1] for row in rows}


def failures(tx: Connection, digest: str) -> tuple[OutcomeRow, ...]:
    """In any order: sorting them would cost SQLite the index that finds the few among thousands."""
    c = _outcomes.c
    failed = c.outcome == Outcome.FAILED.value
    return _read(tx.execute(_asked.where(c.digest == digest, failed)).fetchall())


def count_ok(tx: Connection, digest: str, *, since_epoch: int) -> int:
    """Devices with a good verdict in this retry epoch or a later one."""
    c = _outcomes.c
    return tx.execute(
        select(func.count(func.distinct(c.device))).where(
            c.digest == digest, c.outcome == Outcome.OK.value, c.retry_epoch >= since_epoch
        )
    ).scalar_one()


def highest_failed_epoch(tx: Connection, digest: str, *, offered: int) -> int | None:
    """The newest retry epoch in which the release failed anywhere, or None.

    Args:
        offered: the newest epoch that devices were told of; what they say beyond it is made up.
    """
    c = _outcomes.c
    newest: int | None = tx.execute(
        select(func.max(c.retry_epoch)).where(
            c.digest == digest, c.outcome == Outcome.FAILED.value, c.retry_epoch <= offered
        )
    ).scalar()
    return newest


def _read(rows: Sequence[Any]) -> tuple[OutcomeRow, ...]:
    return tuple(
        OutcomeRow(device, retry_epoch, _OUTCOME[told], code, because, exposed_at)
        for device, retry_epoch, told, code, because, exposed_at in rows
    )
