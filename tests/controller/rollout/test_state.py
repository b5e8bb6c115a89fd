import pytest

from mailboat_controller.rollout.state import FINAL, ORDERS, TRANSITIONS, Phase, Trigger, move
from mailboat_schemas.errors import Conflict


def test_bad_news_halts_even_what_was_completed_days_ago() -> None:
    assert move("r", Phase.COMPLETED, Trigger.HALT) is Phase.HALTED


@pytest.mark.parametrize("phase", sorted(FINAL))
@pytest.mark.parametrize("trigger", list(Trigger))
def test_nothing_reopens_a_halted_or_aborted_rollout(phase: Phase, trigger: Trigger) -> None:
    with pytest.raises(Conflict):
        move("r", phase, trigger)


def test_a_refused_move_says_what_is_possible_instead() -> None:
    with pytest.raises(Conflict) as refused:
        move("canary", Phase.PAUSED, Trigger.START)

    assert "Rollout canary is paused; it cannot start." in str(refused.value)
    assert "abort or promote or resume" in refused.value.next_step


def test_every_phase_but_the_first_can_be_reached() -> None:
    assert set(TRANSITIONS.values()) == set(Phase) - {Phase.PLANNED}


@pytest.mark.parametrize("phase", list(Phase))
def test_what_a_person_is_told_to_do_instead_is_something_that_a_person_can_order(
    phase: Phase,
) -> None:
    trigger = next(trigger for trigger in Trigger if (phase, trigger) not in TRANSITIONS)

    with pytest.raises(Conflict) as refused:
        move("first", phase, trigger)

    words = refused.value.next_step.rstrip(".").split()
    named = {each for each in Trigger if each in words}
    assert named <= ORDERS
    assert bool(named) == any(at is phase and each in ORDERS for at, each in TRANSITIONS)
