"""What an order would do, told before it is given, beside what it then does."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mailboat_controller.rollout.decide import Facts, Rollout, decide, promote
from mailboat_controller.rollout.members import Member, Outcome
from mailboat_controller.rollout.prospects import (
    UNHEARD_FOR,
    Flight,
    Prospect,
    flight,
    gate_figures,
    lets_in,
    prospects,
)
from mailboat_controller.rollout.state import ORDERS, TRANSITIONS, Phase, Trigger
from mailboat_schemas.cohort import PPM
from mailboat_schemas.documents.rollout_gate import Gate
from mailboat_schemas.gate_terms import terms_of
from mailboat_schemas.plan import Plan, PlanWave

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
CLASS = "kiosk"
PLAN = Plan(
    rollout="r",
    waves=(PlanWave(pilots=("d1", "d2", "d3")), PlanWave(count_ppm=PPM, cap_ppm=PPM)),
)
BACK = {CLASS: "0.9.0"}


def member(number: int, outcome: Outcome | None = None, *, seen: bool = True) -> Member:
    at = NOON if seen else NOON - UNHEARD_FOR - timedelta(seconds=1)
    return Member(
        device=f"d{number}",
        enrolment_number=number,
        outcome=outcome,
        exposed_at_ms=None if outcome is None else int(NOON.timestamp() * 1000),
        seen_at_ms=int(at.timestamp() * 1000),
    )


def facts(*members: Member) -> Facts:
    return Facts(members={CLASS: members}, approved=True)


def running(given: Facts, plan: Plan = PLAN) -> Rollout:
    rollout = Rollout(
        name="r", model="vad", version="1.0.0", digest="d" * 64, plan=plan, phase=Phase.RUNNING
    )
    decision = decide(rollout, given, NOON)
    assert decision.opens is not None
    opened = {name: (wave,) for name, wave in decision.opens.items()}
    return replace(rollout, opened=opened, wave_opened_at=NOON)


def told(prospect: Prospect) -> dict[str, int | None]:
    return {each.text: each.devices for each in prospect.effects}


def of(
    trigger: Trigger, rollout: Rollout, given: Facts, back: Mapping[str, str | None] = BACK
) -> Prospect:
    (found,) = [e for e in prospects(rollout, given, back, NOON) if e.trigger is trigger]
    return found


FIVE = facts(
    member(1, Outcome.OK), member(2, Outcome.EXPOSED, seen=False), member(3), *map(member, (4, 5))
)


def test_every_device_that_has_to_do_with_the_release_is_in_one_place() -> None:
    found = flight(running(FIVE), FIVE.members, NOON)

    assert found == Flight(let_in=3, not_begun=1, under_way=1, ok=1, unheard=1)


@pytest.mark.parametrize("phase", list(Phase))
def test_the_orders_of_a_phase_are_those_of_the_table(phase: Phase) -> None:
    rollout = replace(running(FIVE), phase=phase)
    found = {each.trigger for each in prospects(rollout, FIVE, BACK, NOON)}

    assert found == {trigger for at, trigger in TRANSITIONS if at is phase} & ORDERS


def test_promoting_tells_how_many_the_next_wave_lets_in_and_it_does() -> None:
    rollout = running(FIVE)
    opens = promote(rollout, FIVE, NOON).opens
    assert opens is not None

    after = lets_in(rollout, {CLASS: (*rollout.opened[CLASS], opens[CLASS])}, FIVE)

    assert after == {CLASS: 5}
    assert told(of(Trigger.PROMOTE, rollout, FIVE)) == {
        "wave 2 of 2 opens and lets in so many more": 2,
        "of these in kiosk": 2,
        "are let in then; an open wave is never closed again": 5,
    }


def test_promoting_the_last_wave_says_that_the_rollout_completes() -> None:
    rollout = running(FIVE)
    wave = promote(rollout, FIVE, NOON).opens
    assert wave is not None
    last = replace(rollout, opened={CLASS: (*rollout.opened[CLASS], wave[CLASS])})

    assert told(of(Trigger.PROMOTE, last, FIVE)) == {
        "1.0.0 becomes current in every class of the rollout": 5,
        "that no wave let in may install it from then on": 0,
    }


def test_a_promotion_against_bad_news_says_why_it_would_be_refused() -> None:
    failed = facts(member(1, Outcome.FAILED), *map(member, range(2, 6)))
    found = of(Trigger.PROMOTE, running(failed_free(failed)), failed)

    assert "failed on d1" in found.refused


def failed_free(given: Facts) -> Facts:
    return facts(*(replace(each, outcome=None) for each in given.members[CLASS]))


def test_aborting_says_who_goes_back_where_and_who_hears_of_it_later() -> None:
    found = told(of(Trigger.ABORT, running(FIVE), FIVE))

    assert found["in mid-flight: stop and go back"] == 1
    assert found["run it for good: go back"] == 1
    assert found["let in, not begun: never begin"] == 1
    assert found["have left it already"] == 0
    assert found["of all these not heard of for an hour: follow when they are back"] == 1
    assert "kiosk goes back to 0.9.0" in found


def test_undoing_is_refused_where_there_is_nothing_to_go_back_to() -> None:
    completed = replace(running(FIVE), phase=Phase.COMPLETED)

    assert "no earlier approved release" in of(Trigger.UNDO, completed, FIVE, {CLASS: None}).refused
    assert of(Trigger.UNDO, completed, FIVE).refused == ""


def test_a_plan_that_waits_for_a_person_tells_whom_its_first_wave_lets_in() -> None:
    planned = replace(running(FIVE), phase=Phase.PLANNED, opened={}, wave_opened_at=None)
    found = told(of(Trigger.START, planned, FIVE))

    assert found["wave 1 of 2 opens and lets in so many more"] == 3


def test_pausing_and_resuming_touch_nobody_who_is_in() -> None:
    paused = replace(running(FIVE), phase=Phase.PAUSED)

    assert told(of(Trigger.PAUSE, running(FIVE), FIVE))["nobody new is let in"] is None
    assert told(of(Trigger.RESUME, paused, FIVE))["let in: nothing changes"] == 3


def test_the_figures_of_a_gate_are_those_that_halt() -> None:
    terms = terms_of(Gate.model_validate({"kind": "statistical"}))
    plan = Plan(rollout="r", waves=(PlanWave(count_ppm=PPM, cap_ppm=PPM, gate=terms),))
    healthy = facts(*(member(n, Outcome.OK) for n in range(1, 21)))
    broken = facts(*(member(n, Outcome.FAILED) for n in range(1, 21)))
    rollout = running(failed_free(healthy), plan)

    good, bad = (gate_figures(rollout, each.members, NOON) for each in (healthy, broken))

    assert good is not None
    assert bad is not None
    assert (good.evidence.ok, good.evidence.exposed) == (20, 20)
    assert good.failing < 0 < good.threshold < bad.failing
    assert decide(rollout, broken, NOON).phase is Phase.HALTED
    assert gate_figures(running(FIVE), FIVE.members, NOON) is None
