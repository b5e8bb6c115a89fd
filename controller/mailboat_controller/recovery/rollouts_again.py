"""Rollouts brought to where the fleet was told they are.

The backup is older than the fleet: a rollout may have begun, moved on or ended since. What the
director has signed and the broker retained says which releases are current, which are offered and
to whom. What it does not say (which devices were asked, what they answered) is lost and stays
unknown, so nothing goes on by itself: whatever is under way is paused until a person resumes it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

from mailboat_controller import rollout_facts
from mailboat_controller.rollout.decide import Opened, Rollout
from mailboat_controller.rollout.state import FINAL, OFFERED, Phase
from mailboat_controller.store import rollouts
from mailboat_controller.store.rollouts import RolloutRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.desired import Assignment, DesiredState, ReleaseRef

PAUSED = "restored from a backup: what happened since is unknown; look at it, then resume it"
UNKNOWN_END = (
    "restored from a backup: by then it was no longer offered; how it ended is not in the backup"
)
ENDED = "restored from a backup: the fleet was told to run another release"
CURRENT = "restored from a backup: the fleet was told that this release is current"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A rollout whose record was changed to fit what the fleet was told."""

    rollout: str
    before: str
    after: str
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unclear:
    """What the fleet was told and we cannot take up."""

    hardware_class: str
    model: str
    problem: str


def stand_again(
    tx: Transaction, told: Mapping[str, DesiredState], now: datetime
) -> tuple[list[Moved], list[Unclear]]:
    """
    Args:
        told: by class, verified: what its newest retained manifest says.
    """
    before = {row.rollout.name: row.rollout.phase for row in rollouts.every(tx)}
    unclear: list[Unclear] = []
    for hardware_class, desired in sorted(told.items()):
        for assignment in desired.assignments:
            problem = _take_offer(tx, hardware_class, assignment, now)
            if problem:
                model = assignment.model
                unclear.append(Unclear(hardware_class=hardware_class, model=model, problem=problem))
    for model, currents in _currents(told).items():
        unclear += _take_currents(tx, model, currents, now)
    _end_others(tx, told, now)
    moved = [
        Moved(
            rollout=row.rollout.name,
            before=str(before.get(row.rollout.name, "unknown")),
            after=str(row.rollout.phase),
            because=row.rollout.because,
        )
        for row in rollouts.every(tx)
        if before.get(row.rollout.name) is not row.rollout.phase
    ]
    return moved, unclear


def _take_offer(tx: Transaction, hardware_class: str, assignment: Assignment, now: datetime) -> str:
    """What is wrong with it; empty: nothing."""
    offer = assignment.offer
    if offer is None:
        return ""
    row = rollouts.find(tx, offer.rollout)
    if row is None or row.rollout.digest != offer.release.digest:
        return (
            f"rollout {offer.rollout} of {offer.release.version} is offered and not known here: "
            "its release document or its approval is lost"
        )
    opened = {**row.rollout.opened, hardware_class: offer.waves}
    rollout = replace(
        row.rollout,
        phase=Phase.PAUSED,
        opened=MappingProxyType(opened),
        because=PAUSED,
        wave_opened_at=_wave_opened(row, opened, now),
        retry_epoch=max(row.rollout.retry_epoch, assignment.retry_epoch),
    )
    rollouts.save(tx, _started(tx, replace(row, rollout=rollout), now), now)
    return ""


def _wave_opened(row: RolloutRow, opened: Opened, now: datetime) -> datetime:
    """A wave that we do not know of began at the latest now: its soak begins anew."""
    known = row.rollout.wave_opened_at
    return now if known is None or row.rollout.opened != opened else known


def _started(tx: Transaction, row: RolloutRow, now: datetime) -> RolloutRow:
    if row.start_number is not None:
        return row
    return replace(row, start_number=rollouts.next_number(tx), started_at=now)


def _currents(told: Mapping[str, DesiredState]) -> dict[str, dict[str, tuple[ReleaseRef, int]]]:
    """By model and class, what is current, and its retry epoch."""
    found: dict[str, dict[str, tuple[ReleaseRef, int]]] = {}
    for hardware_class, desired in told.items():
        for each in desired.assignments:
            if each.current is not None:
                current = (each.current, each.retry_epoch)
                found.setdefault(each.model, {})[hardware_class] = current
    return found


def _take_currents(
    tx: Transaction, model: str, currents: Mapping[str, tuple[ReleaseRef, int]], now: datetime
) -> Iterator[Unclear]:
    still_current = {ref.digest for ref, _ in currents.values()}
    for hardware_class, (ref, epoch) in sorted(currents.items()):
        covering = [
            row
            for row in rollouts.every(tx, model)
            if row.rollout.digest == ref.digest and _covers(tx, row.rollout, hardware_class)
        ]
        if not covering:
            yield Unclear(
                hardware_class=hardware_class,
                model=model,
                problem=f"{model} {ref.version} is current there, and no rollout of it is known: "
                "its release document or its approval is lost",
            )
            continue
        completed = sorted(_completed(tx, model, hardware_class), key=_completion)
        if completed and completed[-1].rollout.digest == ref.digest:
            continue
        done = [row for row in covering if row.rollout.phase is Phase.COMPLETED]
        row = max(done or covering, key=lambda each: (_completion(each), each.created_at))
        for other in completed:
            # Taken back since: nobody may be sent back to it.
            newer = done and _completion(other) > _completion(row)
            if newer and other.rollout.digest not in still_current:
                _end(tx, other, Phase.ABORTED, ENDED, now)
        _complete(tx, row, epoch, now)


def _completion(row: RolloutRow) -> int:
    return row.completion_number or 0


def _complete(tx: Transaction, row: RolloutRow, epoch: int, now: datetime) -> None:
    rollout = replace(
        row.rollout,
        phase=Phase.COMPLETED,
        because=CURRENT,
        retry_epoch=max(row.rollout.retry_epoch, epoch),
    )
    number = rollouts.next_number(tx)
    row = _started(tx, replace(row, rollout=rollout), now)
    rollouts.save(tx, replace(row, completed_at=now, completion_number=number + 1), now)


def _completed(tx: Transaction, model: str, hardware_class: str) -> list[RolloutRow]:
    return [
        row
        for row in rollouts.every(tx, model)
        if row.rollout.phase is Phase.COMPLETED and _covers(tx, row.rollout, hardware_class)
    ]


def _end_others(tx: Transaction, told: Mapping[str, DesiredState], now: datetime) -> None:
    """Nothing begins or goes on that the fleet is not being offered."""
    offered = {
        assignment.offer.rollout
        for desired in told.values()
        for assignment in desired.assignments
        if assignment.offer is not None
    }
    kept = {
        ref.digest
        for desired in told.values()
        for assignment in desired.assignments
        for ref in assignment.kept
    }
    for row in rollouts.every(tx):
        rollout = row.rollout
        if rollout.name in offered or rollout.phase in FINAL:
            continue
        covered = set(rollout_facts.covered_classes(tx, rollout))
        if rollout.phase in OFFERED and covered <= told.keys():
            phase = Phase.SUPERSEDED if rollout.digest in kept else Phase.ABORTED
            _end(tx, row, phase, UNKNOWN_END, now)
        elif rollout.phase in OFFERED:
            _end(tx, row, Phase.PAUSED, PAUSED, now)
        elif rollout.phase is Phase.PLANNED and not rollout.plan.manual_start:
            # It would have begun as soon as it was approved.
            whole = bool(covered) and covered <= told.keys()
            phase, because = (Phase.ABORTED, UNKNOWN_END) if whole else (Phase.PAUSED, PAUSED)
            _end(tx, _started(tx, row, now), phase, because, now)


def _end(tx: Transaction, row: RolloutRow, phase: Phase, because: str, now: datetime) -> None:
    rollout = replace(row.rollout, phase=phase, because=because)
    rollouts.save(tx, replace(row, rollout=rollout), now)


def _covers(tx: Transaction, rollout: Rollout, hardware_class: str) -> bool:
    return hardware_class in rollout_facts.covered_classes(tx, rollout)
