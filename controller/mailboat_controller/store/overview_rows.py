"""What the first page asks about rollouts at every look: few columns of few rows."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from mailboat_controller.rollout.state import Phase
from mailboat_controller.store import tables
from mailboat_controller.store.fleet_counts import DOUBLED_LATELY
from mailboat_controller.store.instants import from_ms, to_ms

ROLLOUTS_MAX = 30  # of each list

_rollouts, _devices, _quarantine = tables.rollouts, tables.devices, tables.quarantine
_UNDER_WAY = (Phase.RUNNING.value, Phase.PAUSED.value, Phase.PLANNED.value)


class RolloutLine(NamedTuple):
    name: str
    model: str
    version: str
    phase: Phase
    because: str
    waves_open: int
    updated_at: datetime


def under_way(tx: Connection) -> list[RolloutLine]:
    """Running, paused and planned ones, those that changed last at the top."""
    return _lines(tx, _rollouts.c.phase.in_(_UNDER_WAY))


def halted(tx: Connection) -> list[RolloutLine]:
    """Those that nobody has answered: no newer rollout of the same model has begun."""
    newer, mine = _rollouts.alias(), _rollouts.c
    answered = (
        select(newer.c.name)
        .where(newer.c.model == mine.model, newer.c.start_number > mine.start_number)
        .exists()
    )
    return _lines(tx, (mine.phase == Phase.HALTED.value) & ~answered)


def completed(tx: Connection, *, limit: int) -> list[RolloutLine]:
    c = _rollouts.c
    return _lines(tx, c.phase == Phase.COMPLETED.value, limit=limit)


def doubled_since(tx: Connection, now: datetime) -> int:
    """Devices of which there seem to be two."""
    lately = _devices.c.doubled_at >= to_ms(now - DOUBLED_LATELY)
    return tx.execute(
        select(func.count()).select_from(_devices).where(lately, _devices.c.revoked.is_(False))
    ).scalar_one()


def _lines(tx: Connection, those: object, *, limit: int = ROLLOUTS_MAX) -> list[RolloutLine]:
    c = _rollouts.c
    columns = (c.name, c.model, c.version, c.phase, c.because, c.wave, c.updated_at)
    query = select(*columns).where(those).order_by(c.updated_at.desc(), c.name)  # type: ignore[arg-type]
    return [
        RolloutLine(
            row.name,
            row.model,
            row.version,
            Phase(row.phase),
            row.because,
            row.wave + 1,
            from_ms(row.updated_at),
        )
        for row in tx.execute(query.limit(limit))
    ]
