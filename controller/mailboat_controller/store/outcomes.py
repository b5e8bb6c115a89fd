"""The fold of a device's events for one release, kept up to date as events arrive."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, insert, select, update

from mailboat_controller.rollout.members import Outcome, stronger
from mailboat_controller.store import tables
from mailboat_controller.store.instants import to_ms
from mailboat_schemas.events import Event, EventKind

_outcomes = tables.outcomes

OUTCOME_OF = {
    EventKind.RELEASE_REFUSED: Outcome.REFUSED,
    EventKind.TRIAL_STARTED: Outcome.EXPOSED,
    EventKind.SOAK_STARTED: Outcome.EXPOSED,
    EventKind.RETURNED: Outcome.RETURNED,
    EventKind.COMMITTED: Outcome.OK,
    EventKind.TRIAL_FAILED: Outcome.FAILED,
    EventKind.ROLLED_BACK: Outcome.FAILED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRow:
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
    here = (c.digest == digest, c.device == device, c.retry_epoch == event.retry_epoch)
    held = tx.execute(select(_outcomes).where(*here)).first()
    exposed_at = None if told is Outcome.REFUSED else to_ms(now)
    news = {"code": event.code, "because": event.because, "updated_at": to_ms(now)}
    if held is None:
        tx.execute(
            insert(_outcomes).values(
                digest=digest,
                device=device,
                retry_epoch=event.retry_epoch,
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
    if told is held_outcome and (event.code, event.because) < (held.code, held.because):
        tx.execute(update(_outcomes).where(*here).values(news))
    return False


def of_release(tx: Connection, digest: str) -> tuple[OutcomeRow, ...]:
    c = _outcomes.c
    rows = tx.execute(
        select(c.device, c.retry_epoch, c.outcome, c.code, c.because)
        .where(c.digest == digest)
        .order_by(c.device, c.retry_epoch)
    )
    return tuple(
        OutcomeRow(
            device=row.device,
            retry_epoch=row.retry_epoch,
            outcome=Outcome(row.outcome),
            code=row.code,
            because=row.because,
        )
        for row in rows
    )


def highest_failed_epoch(tx: Connection, digest: str) -> int | None:
    """The newest retry epoch in which the release failed anywhere, or None."""
    c = _outcomes.c
    newest: int | None = tx.execute(
        select(func.max(c.retry_epoch)).where(c.digest == digest, c.outcome == Outcome.FAILED.value)
    ).scalar()
    return newest
