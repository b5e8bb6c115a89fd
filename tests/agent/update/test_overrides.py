"""What a hold and a pin make of a device's next step."""

from dataclasses import replace
from datetime import timedelta

import pytest

from mailboat_agent.update.decide import decide
from mailboat_agent.update.situation import Situation
from mailboat_agent.update.state import ModelState
from mailboat_agent.update.steps import GoBack, Keep, Stage, StartTrial
from mailboat_schemas.device_orders import Hold, Pin
from mailboat_schemas.reports import ModelPhase
from situations import (
    FILE,
    NOON,
    RUNS_A,
    VERSION,
    A,
    B,
    C,
    assigned,
    installed,
    known,
    situation,
    soaking,
    trying,
)

LATER = int((NOON + timedelta(hours=1)).timestamp())
HOLD = Hold(by="operator:ana", reason="an exhibition", expires=LATER)
RUNS_B_AFTER_A = ModelState(
    phase=ModelPhase.COMMITTED, active=installed(B), previous=installed(A), install=2
)


def pin(digest: str, expires: int = LATER) -> Pin:
    return Pin(
        model="vad",
        version=VERSION[digest],
        digest=digest,
        by="operator:ana",
        reason="a comparison",
        expires=expires,
    )


def ordered(
    found: Situation, *, holds: tuple[Hold, ...] = (), pins: tuple[Pin, ...] = ()
) -> Situation:
    return replace(found, facts=replace(found.facts, holds=holds, pins=pins))


def test_a_held_device_takes_nothing_new_and_says_who_holds_it() -> None:
    step = decide(ordered(situation(RUNS_A, assigned(A, offer=B)), holds=(HOLD,)), NOON)

    assert isinstance(step, Keep)
    assert "held until 2026-03-01 13:00 UTC by operator:ana: an exhibition" in step.because


def test_a_hold_ends_by_itself() -> None:
    held = ordered(situation(RUNS_A, assigned(A, offer=B)), holds=(HOLD,))

    assert isinstance(decide(held, NOON + timedelta(hours=1)), StartTrial)


def test_a_hold_of_another_model_is_none() -> None:
    other = HOLD.model_copy(update={"model": "heat"})
    found = ordered(situation(RUNS_A, assigned(A, offer=B)), holds=(other,))

    assert isinstance(decide(found, NOON), StartTrial)


def test_a_held_device_leaves_what_is_withdrawn_all_the_same() -> None:
    found = situation(RUNS_B_AFTER_A, assigned(A), standings={B: known(B, approved=False)})
    step = decide(ordered(found, holds=(HOLD,)), NOON)

    assert isinstance(step, GoBack)
    assert step.to == installed(A)


def test_a_held_device_goes_back_where_the_fleet_goes_back() -> None:
    step = decide(ordered(situation(RUNS_B_AFTER_A, assigned(A)), holds=(HOLD,)), NOON)

    assert isinstance(step, GoBack)


def test_a_pinned_device_stays_with_its_release() -> None:
    step = decide(ordered(situation(RUNS_A, assigned(B, offer=C)), pins=(pin(A),)), NOON)

    assert isinstance(step, Keep)
    assert "pinned by operator:ana: a comparison" in step.because


def test_a_pinned_device_takes_the_release_it_is_pinned_to() -> None:
    step = decide(ordered(situation(RUNS_A, assigned(A, offer=C)), pins=(pin(B),)), NOON)

    assert isinstance(step, StartTrial)
    assert step.candidate.digest == B


def test_a_device_that_runs_nothing_takes_its_pin_before_what_is_current() -> None:
    found = situation(assignment=assigned(A), held=(A, FILE))
    step = decide(ordered(found, pins=(pin(B),)), NOON)

    assert isinstance(step, Stage)
    assert step.candidate.digest == B


def test_a_pin_to_what_ran_before_goes_back_without_a_trial() -> None:
    step = decide(ordered(situation(RUNS_B_AFTER_A, assigned(B)), pins=(pin(A),)), NOON)

    assert isinstance(step, GoBack)
    assert (step.to, step.code) == (installed(A), "pinned")


def test_who_is_held_does_not_follow_a_pin() -> None:
    found = ordered(situation(RUNS_B_AFTER_A, assigned(B)), holds=(HOLD,), pins=(pin(A),))

    assert isinstance(decide(found, NOON), Keep)


def test_a_pin_does_not_let_a_device_in_before_its_wave() -> None:
    found = situation(RUNS_A, assigned(A, offer=B, upto=""))
    step = decide(ordered(found, pins=(pin(B),)), NOON)

    assert isinstance(step, Keep)
    assert step.refusals[-1].check.name == "in_cohort"


def test_a_pin_to_what_failed_here_does_not_bring_it_back() -> None:
    failed = RUNS_A.with_failed(B, 0)
    step = decide(ordered(situation(failed, assigned(A)), pins=(pin(B),)), NOON)

    assert isinstance(step, Keep)
    assert step.refusals[-1].check.name == "not_failed_here"


@pytest.mark.parametrize("state", [trying(B, A), soaking(B, A)], ids=["trial", "soak"])
def test_an_install_under_way_gives_way_to_a_pin(state: ModelState) -> None:
    step = decide(ordered(situation(state, assigned(A, offer=B)), pins=(pin(A),)), NOON)

    assert isinstance(step, GoBack)
    assert step.to == installed(A)


def test_the_install_of_a_pinned_release_goes_on_though_nothing_else_names_it() -> None:
    step = decide(ordered(situation(soaking(B, A), assigned(A)), pins=(pin(B),)), NOON)

    assert not isinstance(step, GoBack)


def test_a_pin_ends_by_itself() -> None:
    found = ordered(situation(RUNS_A, assigned(B)), pins=(pin(A),))
    step = decide(found, NOON + timedelta(hours=2))

    assert isinstance(step, StartTrial)
    assert step.candidate.digest == B
