"""Which moves exist between the phases of a model."""

import pytest

from mailboat_agent.update.transitions import (
    TRANSITIONS,
    ImpossibleTransition,
    Trigger,
    advance,
)
from mailboat_schemas.reports import ModelPhase


def test_an_install_goes_from_staging_over_trial_and_soak_to_committed() -> None:
    phase = ModelPhase.ABSENT
    for trigger in (Trigger.STAGE, Trigger.SWITCH, Trigger.PASSED, Trigger.PASSED):
        phase = advance(phase, trigger)

    assert phase is ModelPhase.COMMITTED


@pytest.mark.parametrize("phase", list(ModelPhase))
@pytest.mark.parametrize("trigger", list(Trigger))
def test_a_move_that_is_not_in_the_table_is_refused(phase: ModelPhase, trigger: Trigger) -> None:
    if (phase, trigger) in TRANSITIONS:
        assert advance(phase, trigger) is TRANSITIONS[phase, trigger]
    else:
        with pytest.raises(
            ImpossibleTransition, match=f"{trigger} has no meaning in phase {phase}"
        ):
            advance(phase, trigger)


def test_nothing_is_committed_without_a_soak() -> None:
    to_committed = {key for key, phase in TRANSITIONS.items() if phase is ModelPhase.COMMITTED}

    assert (ModelPhase.TRIAL, Trigger.PASSED) not in to_committed
    assert (ModelPhase.STAGING, Trigger.SWITCH) not in to_committed


def test_every_phase_but_absent_and_staging_can_fall_back_or_empty() -> None:
    for phase in (ModelPhase.TRIAL, ModelPhase.SOAK, ModelPhase.COMMITTED):
        assert advance(phase, Trigger.FALL_BACK) is ModelPhase.COMMITTED
        assert advance(phase, Trigger.EMPTY) is ModelPhase.ABSENT
