"""A rollout's row after a decision or an order: what changes with it, and nothing sent."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

import structlog

from mailboat_controller.rollout.decide import Decision, Rollout
from mailboat_controller.rollout.members import ROSTER_MIN
from mailboat_controller.rollout.state import Phase
from mailboat_controller.store import audit
from mailboat_controller.store.rollouts import RolloutRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas import cohort
from mailboat_schemas.desired import OfferWave
from mailboat_schemas.errors import Conflict
from mailboat_schemas.tracing import trace_id

ACTOR = "controller"

_log = structlog.get_logger(__name__)

# A wave that was open before its class joined the plan: it has let in nobody there.
MISSED_WAVE = OfferWave(upto=cohort.UPTO_NONE, roster=ROSTER_MIN)


def decided(row: RolloutRow, decision: Decision, number: int, now: datetime) -> RolloutRow:
    after = moved(row, decision.phase, decision.because, number, now)
    if decision.opens is None:
        return after
    opened = dict(row.rollout.opened)
    for hardware_class, wave in decision.opens.items():
        # A class that joined the plan late was not let in by the waves before this one.
        missed = row.rollout.waves_open - len(opened.get(hardware_class, ()))
        opened[hardware_class] = (
            *opened.get(hardware_class, ()),
            *[MISSED_WAVE] * missed,
            wave,
        )
    return replace(after, rollout=replace(after.rollout, opened=opened, wave_opened_at=now))


def moved(row: RolloutRow, phase: Phase, because: str, number: int, now: datetime) -> RolloutRow:
    starts = row.rollout.phase is Phase.PLANNED and phase is Phase.RUNNING
    completes = row.rollout.phase is not Phase.COMPLETED and phase is Phase.COMPLETED
    resumes = row.rollout.phase is Phase.PAUSED and phase is Phase.RUNNING
    return replace(
        row,
        rollout=replace(
            row.rollout,
            phase=phase,
            because=because,
            resumed_at=now if resumes else row.rollout.resumed_at,
        ),
        started_at=now if starts else row.started_at,
        completed_at=now if completes else row.completed_at,
        start_number=number if starts else row.start_number,
        completion_number=number if completes else row.completion_number,
    )


def refuse_unseen(seen: Rollout, now_stands: Rollout, wave: int | None) -> None:
    """Promoting twice opens two waves: who orders it means the wave that they looked at.

    Args:
        seen: as stored before this order.
        now_stands: what its gate made of it since.
        wave: the newest open one as a person saw it; None: they did not say.

    Raises:
        Conflict: another wave is the newest by now.
    """
    open_now = now_stands.waves_open
    if wave is not None and wave != open_now:
        newest = f"wave {open_now}" if open_now else "no wave"
        raise Conflict(
            f"Of rollout {seen.name} {newest} is open by now, not wave {wave}.",
            next_step=f"look at it again: `mailboat rollout status {seen.name}`.",
        )
    if 0 < seen.waves_open < open_now:
        raise Conflict(
            f"The gate of rollout {seen.name} opened wave {open_now} by itself.",
            next_step=f"nothing; `mailboat rollout status {seen.name}` shows the new wave.",
        )


def record_move(tx: Transaction, rollout: Rollout, decision: Decision, now: datetime) -> None:
    """A decision of the controller's own, for the log and the audit log."""
    action = "wave" if decision.opens else decision.phase.value
    _log.info(
        "rollout moved",
        rollout=rollout.name,
        to=action,
        because=decision.because,
        trace_id=trace_id(rollout.digest),
    )
    audit.append(
        tx,
        at=now,
        actor=ACTOR,
        action=f"rollout.{action}",
        subject=rollout.name,
        reason=decision.because,
        details={"from": rollout.phase.value, **told(decision)},
    )


def told(decision: Decision) -> dict[str, object]:
    """What of a decision the audit log keeps, beside the reason."""
    opens: Mapping[str, OfferWave] = decision.opens or {}
    return {
        "to": decision.phase.value,
        "opened": {name: wave.model_dump(mode="json") for name, wave in opens.items()},
        "evidence": dict(decision.evidence),
    }
