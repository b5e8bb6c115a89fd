"""A rollout's row after a decision or an order: what changes with it, and nothing sent."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from mailboat_controller.rollout.decide import Decision
from mailboat_controller.rollout.members import ROSTER_MIN
from mailboat_controller.rollout.state import Phase
from mailboat_controller.store.rollouts import RolloutRow
from mailboat_schemas import cohort
from mailboat_schemas.desired import OfferWave

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


def told(decision: Decision) -> dict[str, object]:
    """What of a decision the audit log keeps, beside the reason."""
    opens: Mapping[str, OfferWave] = decision.opens or {}
    return {
        "to": decision.phase.value,
        "opened": {name: wave.model_dump(mode="json") for name, wave in opens.items()},
        "evidence": dict(decision.evidence),
    }
