"""Windows and cadence: what is new waits for them, what leads back does not."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mailboat_agent.update.decide import decide
from mailboat_agent.update.situation import Known, Situation
from mailboat_agent.update.state import ModelState
from mailboat_agent.update.steps import GoBack, Keep, RunTrial, Stage, StartTrial, WatchSoak
from mailboat_schemas.maintenance import Window
from mailboat_schemas.policy_rules import Rules
from mailboat_schemas.reports import ModelPhase
from situations import (
    EMPTY,
    EVERYBODY,
    FILE,
    NOON,
    RUNS_A,
    A,
    B,
    assigned,
    installed,
    known,
    situation,
    trying,
)

NIGHT = Rules(windows=(Window(start="02:00", length_minutes=120),))
AHEAD = replace(NIGHT, download="anytime")
OPEN = NOON.replace(hour=3)
DAY = timedelta(days=1)
EMERGENCY = EVERYBODY.model_copy(update={"urgency": "emergency", "reason": "CVE-2026-1"})


def emergency(digest: str) -> Known:
    approved = known(digest)
    return replace(approved, standing=replace(approved.standing, plan=EMERGENCY))


def under(rules: Rules, state: ModelState = RUNS_A, offer: str = B, **more: Any) -> Situation:
    found = situation(state, assigned(current=A, offer=offer), **more)
    switched = {} if state.serving is None else {"vad": state.switched_at}
    return replace(found, facts=replace(found.facts, rules=rules, switched_at=switched))


def test_outside_its_windows_a_device_waits_and_says_when_the_next_opens() -> None:
    step = decide(under(NIGHT), NOON)

    assert isinstance(step, Keep)
    assert "the next opens 2026-03-02 02:00 UTC" in step.because
    assert isinstance(decide(under(NIGHT), OPEN), StartTrial)


def test_nothing_is_fetched_outside_unless_policy_lets_it_and_then_the_switch_waits() -> None:
    assert isinstance(decide(under(NIGHT, held=(A, FILE)), NOON), Keep)

    step = decide(under(AHEAD, held=(A, FILE)), NOON)
    assert isinstance(step, Stage)
    assert "2.0.0 is fetched ahead" in step.because
    assert isinstance(decide(under(AHEAD), NOON), Keep)
    assert isinstance(decide(under(AHEAD), OPEN), StartTrial)


def test_what_may_not_be_installed_at_all_is_not_fetched_ahead_either() -> None:
    withdrawn = {B: known(B, approved=False)}

    assert isinstance(decide(under(AHEAD, held=(A, FILE), standings=withdrawn), NOON), Keep)


def test_a_device_on_which_nothing_serves_waits_for_no_window() -> None:
    assert isinstance(decide(under(NIGHT, EMPTY), NOON), StartTrial)


def test_an_install_under_way_goes_on_when_its_window_closes() -> None:
    assert isinstance(decide(under(NIGHT, trying(B, A)), NOON), RunTrial)
    soaking = ModelState(
        phase=ModelPhase.SOAK, active=installed(B), previous=installed(A), tries=1, install=2
    )
    assert isinstance(decide(under(NIGHT, soaking, attempt_running=True), NOON), WatchSoak)


def test_a_withdrawal_and_a_return_wait_for_no_window() -> None:
    runs_b = replace(RUNS_A, active=installed(B), previous=installed(A))
    withdrawn = situation(runs_b, assigned(current=A), standings={B: known(B, approved=False)})
    superseded = situation(runs_b, assigned(current=A))
    for found in (withdrawn, superseded):
        step = decide(replace(found, facts=replace(found.facts, rules=NIGHT)), NOON)
        assert isinstance(step, GoBack)
        assert step.to == installed(A)


@pytest.mark.parametrize("rules", [NIGHT, Rules(days_between=30), replace(NIGHT, days_between=9)])
def test_an_emergency_waits_for_neither_window_nor_cadence(rules: Rules) -> None:
    state = replace(RUNS_A, switched_at=int((NOON - DAY).timestamp()))

    assert isinstance(decide(under(rules, state), NOON), Keep)
    step = decide(under(rules, state, standings={B: emergency(B)}), NOON)
    assert isinstance(step, StartTrial)


def test_a_wrong_clock_opens_no_window() -> None:
    step = decide(under(NIGHT, clock_trusted=False), OPEN)

    assert isinstance(step, Keep)
    assert "clock" in step.because


def test_the_next_switch_waits_for_the_days_between_two() -> None:
    monthly = Rules(days_between=30)
    switched = replace(RUNS_A, switched_at=int(NOON.timestamp()))

    step = decide(under(monthly, switched), NOON + 29 * DAY)
    assert isinstance(step, Keep)
    assert "one switch in 30 days; the last was 2026-03-01 12:00 UTC" in step.because
    assert isinstance(decide(under(monthly, switched), NOON + 30 * DAY), StartTrial)


def test_a_switch_that_a_wrong_clock_dated_ahead_holds_up_nothing() -> None:
    ahead = replace(RUNS_A, switched_at=int((NOON + 999 * DAY).timestamp()))

    assert isinstance(decide(under(Rules(days_between=30), ahead), NOON), StartTrial)


def test_no_instant_that_a_device_may_tell_is_too_large_to_be_judged() -> None:
    """The controller asks the same of what a device says in its report."""
    state = replace(RUNS_A, switched_at=1 << 63)

    assert isinstance(decide(under(Rules(days_between=30), state), NOON), StartTrial)
