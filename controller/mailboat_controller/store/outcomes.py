"""The fold of a device's events for one release, kept up to date as events arrive."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, insert, select, update

from mailboat_controller.rollout.members import Outcome, stronger
from mailboat_controller.store import tables
from mailboat_controller.store.events import RETRY_EPOCH_MAX
from mailboat_controller.store.instants import to_ms
from mailboat_controller.store.plain_json import plain
from mailboat_schemas.events import Event, EventKind

_outcomes = tables.outcomes
_asked = select(
    _outcomes.c.device,
    _outcomes.c.retry_epoch,
    _outcomes.c.outcome,
    _outcomes.c.code,
    _outcomes.c.because,
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


def fold(tx: Connection, device: str, events: Iterable[Event], now: datetime) -> bool:
    """Take events into the outcomes; says whether any outcome changed."""
    changed = False
    for event in events:
        told = OUTCOME_OF.get(event.kind)
        if told is not None and event.digest is not None:
            changed = _fold_one(tx, device, event, event.digest, told, now) or changed
    return changed


def _fold_one(
    tx: Connection, device: str, event: Event, digest: str, told: Outcome, now: datetime
) -> bool:
    c = _outcomes.c
    retry_epoch = min(event.retry_epoch, RETRY_EPOCH_MAX)
    here = (c.digest == digest, c.device == device, c.retry_epoch == retry_epoch)
    held = tx.execute(select(_outcomes).where(*here)).first()
    exposed_at = None if told is Outcome.REFUSED else to_ms(now)
    code, because = plain(event.code), plain(event.because)
    news = {"code": code, "because": because, "updated_at": to_ms(now)}
    if held is None:
        tx.execute(
            insert(_outcomes).values(
                digest=digest,
                device=device,
                retry_epoch=retry_epoch,
                outcome=told.value,
                exposed_at=exposed_at,
                **news,
            )
        )
        return True
    held_outcome = Outcome(held.outcome)
    exposed_at = held.exposed_at if held.exposed_at is not None else exposed_at
    if stronger(held_outcome, told) is not held_outcome:
        tx.execute(
            update(_outcomes).where(*here).values(outcome=told.value, exposed_at=exposed_at, **news)
        )
        return True
    # Of two equal outcomes the words of one are kept, the same one in whatever order they come.
    if told is held_outcome and (code, because) < (held.code, held.because):
        tx.execute(update(_outcomes).where(*here).values(news))
    return False


def of_release(tx: Connection, digest: str) -> tuple[OutcomeRow, ...]:
    """By device and retry epoch."""
    c = _outcomes.c
    return _read(
        tx.execute(_asked.where(c.digest == digest).order_by(c.device, c.retry_epoch)).fetchall()
    )


def failures(tx: Connection, digest: str) -> tuple[OutcomeRow, ...]:
    """In any order: sorting them would cost SQLite the index that finds the few among thousands."""
    c = _outcomes.c
    failed = c.outcome == Outcome.FAILED.value
    return _read(tx.execute(_asked.where(c.digest == digest, failed)).fetchall())


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
        OutcomeRow(device, retry_epoch, _OUTCOME[told], code, because)
        for device, retry_epoch, told, code, because in rows
    )
