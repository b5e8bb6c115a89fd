"""Rollouts, one row each, and the assignments that follow from the completed ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from mailboat_controller.rollout.decide import Rollout
from mailboat_controller.rollout.state import Phase
from mailboat_controller.store import tables
from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_schemas.desired import OfferWave, ReleaseRef
from mailboat_schemas.errors import NotFound
from mailboat_schemas.plan import Plan

_rollouts = tables.rollouts
_assignments = tables.assignments


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRow:
    """A rollout, its instants by the controller's clock, and its place in the order of starts and
    completions. None: has not happened."""

    rollout: Rollout
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime
    start_number: int | None
    completion_number: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentRow:
    """What all devices of a class run for one model; None: nothing yet, or nothing any more."""

    hardware_class: str
    model: str
    current: ReleaseRef | None
    retry_epoch: int


def create(tx: Connection, rollout: Rollout, now: datetime) -> None:
    tx.execute(
        insert(_rollouts).values(
            **_values(rollout),
            started_at=None,
            completed_at=None,
            created_at=to_ms(now),
            updated_at=to_ms(now),
        )
    )


def save(
    tx: Connection,
    row: RolloutRow,
    now: datetime,
) -> None:
    tx.execute(
        update(_rollouts)
        .where(_rollouts.c.name == row.rollout.name)
        .values(
            **_values(row.rollout),
            started_at=_ms(row.started_at),
            completed_at=_ms(row.completed_at),
            start_number=row.start_number,
            completion_number=row.completion_number,
            updated_at=to_ms(now),
        )
    )


def find(tx: Connection, name: str) -> RolloutRow | None:
    row = tx.execute(select(_rollouts).where(_rollouts.c.name == name)).first()
    return None if row is None else _read(row)


def get(tx: Connection, name: str) -> RolloutRow:
    """
    Raises:
        NotFound: no such rollout.
    """
    row = find(tx, name)
    if row is None:
        raise NotFound(
            f"There is no rollout {name}.",
            next_step="`mailboat rollout list` shows those there are.",
        )
    return row


def every(tx: Connection, model: str | None = None) -> tuple[RolloutRow, ...]:
    """Oldest first."""
    query = select(_rollouts).order_by(_rollouts.c.created_at, _rollouts.c.name)
    if model is not None:
        query = query.where(_rollouts.c.model == model)
    return tuple(_read(row) for row in tx.execute(query))


def next_number(tx: Connection) -> int:
    """For the next start or completion."""
    c = _rollouts.c
    newest = tx.execute(select(func.max(c.start_number), func.max(c.completion_number))).one()
    return 1 + max(number or 0 for number in newest)


def highest_retry_epoch(tx: Connection, model: str) -> int:
    """The newest that any rollout of a model had; 0 while there is none."""
    c = _rollouts.c
    newest = tx.execute(select(func.max(c.retry_epoch)).where(c.model == model)).scalar()
    return newest or 0


def any_of(tx: Connection, digest: str) -> bool:
    """Whether the release had a rollout already, under whatever name."""
    c = _rollouts.c
    return tx.execute(select(c.name).where(c.digest == digest).limit(1)).first() is not None


def assignments(tx: Connection, hardware_class: str | None = None) -> tuple[AssignmentRow, ...]:
    """By class and model."""
    c = _assignments.c
    query = select(_assignments).order_by(c.hardware_class, c.model)
    if hardware_class is not None:
        query = query.where(c.hardware_class == hardware_class)
    return tuple(
        AssignmentRow(
            hardware_class=row.hardware_class,
            model=row.model,
            current=None
            if row.version is None
            else ReleaseRef(version=row.version, digest=row.digest),
            retry_epoch=row.retry_epoch,
        )
        for row in tx.execute(query)
    )


def assign(tx: Connection, assignment: AssignmentRow) -> None:
    c = _assignments.c
    tx.execute(
        delete(_assignments).where(
            c.hardware_class == assignment.hardware_class, c.model == assignment.model
        )
    )
    current = assignment.current
    tx.execute(
        insert(_assignments).values(
            hardware_class=assignment.hardware_class,
            model=assignment.model,
            version=None if current is None else current.version,
            digest=None if current is None else current.digest,
            retry_epoch=assignment.retry_epoch,
        )
    )


def _values(rollout: Rollout) -> dict[str, Any]:
    return {
        "name": rollout.name,
        "model": rollout.model,
        "version": rollout.version,
        "digest": rollout.digest,
        "plan": rollout.plan.to_json(),
        "phase": rollout.phase.value,
        "wave": rollout.waves_open - 1,
        "opened": {
            hardware_class: [wave.model_dump(mode="json") for wave in waves]
            for hardware_class, waves in rollout.opened.items()
        },
        "because": rollout.because,
        "retry_epoch": rollout.retry_epoch,
        "wave_opened_at": _ms(rollout.wave_opened_at),
        "resumed_at": _ms(rollout.resumed_at),
    }


def _read(row: Row[Any]) -> RolloutRow:
    return RolloutRow(
        rollout=Rollout(
            name=row.name,
            model=row.model,
            version=row.version,
            digest=row.digest,
            plan=Plan.model_validate(row.plan),
            phase=Phase(row.phase),
            opened=_opened(row.opened),
            because=row.because,
            wave_opened_at=_instant(row.wave_opened_at),
            resumed_at=_instant(row.resumed_at),
            retry_epoch=row.retry_epoch,
        ),
        created_at=from_ms(row.created_at),
        started_at=_instant(row.started_at),
        completed_at=_instant(row.completed_at),
        updated_at=from_ms(row.updated_at),
        start_number=row.start_number,
        completion_number=row.completion_number,
    )


def _opened(content: Mapping[str, Any]) -> dict[str, tuple[OfferWave, ...]]:
    return {
        hardware_class: tuple(OfferWave.model_validate(wave) for wave in waves)
        for hardware_class, waves in content.items()
    }


def _ms(instant: datetime | None) -> int | None:
    return None if instant is None else to_ms(instant)


def _instant(instant_ms: int | None) -> datetime | None:
    return None if instant_ms is None else from_ms(instant_ms)
