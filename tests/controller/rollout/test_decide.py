from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from mailboat_controller.rollout.decide import Decision, Facts, Rollout, decide
from mailboat_controller.rollout.members import Member, Outcome
from mailboat_controller.rollout.state import Phase
from mailboat_schemas.cohort import PPM
from mailboat_schemas.plan import Plan, PlanWave

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
CLASS = "kiosk"
PILOTS = PlanWave(pilots=("a", "b", "c"))
EVERYBODY = PlanWave(count_ppm=PPM, cap_ppm=PPM)
PLAN = Plan(rollout="r", waves=(PILOTS, EVERYBODY))


def devices(**outcomes: Outcome | None) -> dict[str, tuple[Member, ...]]:
    return {
        CLASS: tuple(
            Member(device=name, enrolment_number=n, outcome=outcome, because="p95 too high")
            for n, (name, outcome) in enumerate(outcomes.items(), start=1)
        )
    }


def silent(names: str = "abcd") -> dict[str, tuple[Member, ...]]:
    return devices(**dict.fromkeys(names, None))


def facts(members: Mapping[str, tuple[Member, ...]], *, approved: bool = True) -> Facts:
    return Facts(members=members, approved=approved)


def started(plan: Plan = PLAN) -> Rollout:
    return Rollout(
        name="r",
        model="vad",
        version="1.0.0",
        digest="d" * 64,
        plan=plan,
        phase=Phase.RUNNING,
    )


def after(rollout: Rollout, decision: Decision) -> Rollout:
    opened = dict(rollout.opened)
    for name, wave in (decision.opens or {}).items():
        opened[name] = (*opened.get(name, ()), wave)
    opens = decision.opens is not None
    return replace(
        rollout,
        phase=decision.phase,
        because=decision.because,
        opened=opened,
        wave_opened_at=NOON if opens else rollout.wave_opened_at,
    )


def opened(plan: Plan = PLAN) -> Rollout:
    return after(started(plan), decide(started(plan), facts(silent()), NOON))


def test_an_approved_rollout_starts_by_itself() -> None:
    planned = replace(started(), phase=Phase.PLANNED)

    assert decide(planned, facts(silent()), NOON).phase is Phase.RUNNING


def test_a_plan_that_asks_for_a_person_waits_for_one() -> None:
    planned = replace(started(PLAN.model_copy(update={"manual_start": True})), phase=Phase.PLANNED)

    decision = decide(planned, facts(silent()), NOON)

    assert (decision.phase, decision.because) == (
        Phase.PLANNED,
        "waits to be started: its plan says so",
    )


def test_the_first_wave_opens_to_its_pilots() -> None:
    decision = decide(started(), facts(silent()), NOON)

    assert decision.opens is not None
    assert decision.opens[CLASS].pilots == ("a", "b", "c")
    assert decision.because == "wave 1 of 2 opened"


def test_silence_holds_a_wave_and_says_who_is_silent_since_when() -> None:
    members = devices(a=None, b=Outcome.EXPOSED, c=Outcome.OK, d=None)

    decision = decide(opened(), facts(members), NOON + timedelta(days=300))

    assert decision.phase is Phase.RUNNING
    assert decision.opens is None
    assert decision.because == (
        "wave 1 of 2: kiosk: 2 of 3 have no verdict: a, b (waiting since 2026-06-01 12:00:00Z)"
    )


def test_a_wave_passes_on_the_verdict_of_each_of_its_members() -> None:
    members = devices(a=Outcome.OK, b=Outcome.OK, c=Outcome.OK, d=None)

    decision = decide(opened(), facts(members), NOON)

    assert decision.opens is not None
    assert decision.because == "wave 2 of 2 opened; wave 1 of 2: kiosk: all 3 good"


def test_a_plan_may_ask_for_fewer_verdicts_than_members() -> None:
    plan = Plan(rollout="r", waves=(PILOTS.model_copy(update={"ok_min": 2}), EVERYBODY))
    two_of_three = devices(a=Outcome.OK, b=None, c=Outcome.OK, d=None)
    one_of_three = devices(a=Outcome.OK, b=None, c=None, d=None)

    assert decide(opened(plan), facts(two_of_three), NOON).opens is not None
    assert decide(opened(plan), facts(one_of_three), NOON).opens is None


def test_the_first_failure_halts_whatever_good_news_there_is() -> None:
    members = devices(a=Outcome.OK, b=Outcome.OK, c=Outcome.FAILED, d=None)

    decision = decide(opened(), facts(members), NOON)

    assert (decision.phase, decision.because) == (Phase.HALTED, "failed on c: p95 too high")
    assert decision.evidence == {"rule": "every", "failed": 1}


def test_a_failure_that_arrives_after_completion_halts_too() -> None:
    rollout = replace(opened(), phase=Phase.COMPLETED)

    assert decide(rollout, facts(devices(a=Outcome.FAILED)), NOON).phase is Phase.HALTED


def test_good_news_never_reopens_a_halted_rollout() -> None:
    rollout = replace(opened(), phase=Phase.HALTED, because="failed on c")

    decision = decide(rollout, facts(devices(a=Outcome.OK, b=Outcome.OK, c=Outcome.OK)), NOON)

    assert decision == Decision(phase=Phase.HALTED, because="failed on c")


def test_refusals_do_not_hold_a_wave_that_has_a_good_verdict() -> None:
    members = devices(a=Outcome.OK, b=Outcome.REFUSED, c=Outcome.REFUSED, d=None)

    assert decide(opened(), facts(members), NOON).opens is not None


def test_a_wave_that_everybody_refused_does_not_pass_on_nothing() -> None:
    members = devices(a=Outcome.REFUSED, b=Outcome.REFUSED, c=Outcome.REFUSED, d=None)

    decision = decide(opened(), facts(members), NOON)

    assert decision.opens is None
    assert "all 3 devices refused the release; no verdict at all" in decision.because


def test_a_wave_that_would_let_nobody_in_opens_when_somebody_comes() -> None:
    early = decide(started(), facts(silent("xyz")), NOON)
    late = decide(after(started(), early), facts(silent("xyza")), NOON)

    assert (early.opens, early.because) == (None, "wave 1 of 2 would let in no enrolled device")
    assert late.opens is not None


def test_a_wave_whose_devices_are_all_revoked_holds() -> None:
    gone = {CLASS: tuple(replace(member, revoked=True) for member in silent()[CLASS])}

    decision = decide(opened(), facts(gone), NOON)

    assert (decision.opens, decision.because) == (None, "wave 1 of 2 lets in no enrolled device")


def test_refusals_do_not_lower_the_number_of_verdicts_an_approver_asked_for() -> None:
    plan = Plan(rollout="r", waves=(PILOTS.model_copy(update={"ok_min": 2}), EVERYBODY))
    one_ok = devices(a=Outcome.OK, b=Outcome.REFUSED, c=Outcome.REFUSED, d=None)

    decision = decide(opened(plan), facts(one_ok), NOON)

    assert decision.opens is None
    assert decision.because == "wave 1 of 2: kiosk: 1 of 2 good verdicts; 2 refused the release"


def test_a_class_smaller_than_the_verdicts_asked_for_brings_all_it_has() -> None:
    plan = Plan(rollout="r", waves=(PILOTS.model_copy(update={"ok_min": 9}), EVERYBODY))
    all_ok = devices(a=Outcome.OK, b=Outcome.OK, c=Outcome.OK, d=None)

    assert decide(opened(plan), facts(all_ok), NOON).opens is not None


def test_a_class_that_joined_after_the_last_wave_is_never_completed_unseen() -> None:
    plan = Plan(rollout="r", waves=(PILOTS,))
    good = devices(a=Outcome.OK, b=Outcome.OK, c=Outcome.OK)
    joined = {**good, "late": (Member(device="z", enrolment_number=9),)}

    decision = decide(opened(plan), facts(joined), NOON)

    assert decision.phase is Phase.RUNNING
    assert "late: joined the plan after its last wave had opened" in decision.because


def test_a_plan_that_expired_before_its_start_never_starts() -> None:
    plan = PLAN.model_copy(update={"expires": int(NOON.timestamp())})
    planned = replace(started(plan), phase=Phase.PLANNED)

    decision = decide(planned, facts(silent()), NOON)

    assert decision == Decision(phase=Phase.ABORTED, because="its plan expired before it started")


def test_one_class_without_a_verdict_holds_the_others() -> None:
    plan = Plan(rollout="r", waves=(EVERYBODY, EVERYBODY))
    both = {
        "fast": (Member(device="a", enrolment_number=1, outcome=Outcome.OK),),
        "slow": (Member(device="b", enrolment_number=2),),
    }
    rollout = after(started(plan), decide(started(plan), facts(both), NOON))

    decision = decide(rollout, facts(both), NOON)

    assert decision.opens is None
    assert "slow: 1 of 1 has no verdict: b" in decision.because


def test_the_last_wave_completes_the_rollout() -> None:
    plan = Plan(rollout="r", waves=(PILOTS,))
    members = devices(a=Outcome.OK, b=Outcome.OK, c=Outcome.OK)

    assert decide(opened(plan), facts(members), NOON).phase is Phase.COMPLETED


def test_a_plan_that_expires_halts_and_never_promotes() -> None:
    end = NOON + timedelta(days=7)
    plan = PLAN.model_copy(update={"expires": int(end.timestamp())})
    members = devices(a=Outcome.OK, b=Outcome.OK, c=Outcome.OK)

    before = decide(opened(plan), facts(members), end - timedelta(seconds=1))
    at_once = decide(opened(plan), facts(members), end)

    assert before.opens is not None
    assert (at_once.phase, at_once.opens) == (Phase.HALTED, None)


def test_a_wave_does_not_open_before_its_time() -> None:
    later = EVERYBODY.model_copy(update={"earliest": int(NOON.timestamp())})
    plan = Plan(rollout="r", waves=(PILOTS, later))
    members = devices(a=Outcome.OK, b=Outcome.OK, c=Outcome.OK)

    assert decide(opened(plan), facts(members), NOON - timedelta(seconds=1)).opens is None
    assert decide(opened(plan), facts(members), NOON).opens is not None


def test_a_paused_rollout_lets_nobody_in_but_still_hears_bad_news() -> None:
    paused = replace(opened(), phase=Phase.PAUSED, because="paused by alice")
    good = facts(devices(a=Outcome.OK, b=Outcome.OK, c=Outcome.OK))

    assert decide(paused, good, NOON) == Decision(phase=Phase.PAUSED, because="paused by alice")
    assert decide(paused, facts(devices(a=Outcome.FAILED)), NOON).phase is Phase.HALTED


def test_a_withdrawn_approval_halts() -> None:
    assert decide(opened(), facts(silent(), approved=False), NOON).phase is Phase.HALTED


def test_a_newer_rollout_of_the_same_model_takes_the_place_of_this_one() -> None:
    newer = Facts(members=silent(), approved=True, superseded_by="next")

    decision = decide(opened(), newer, NOON)

    assert decision == Decision(phase=Phase.SUPERSEDED, because="superseded by rollout next")


def test_a_plan_narrowed_below_what_is_open_halts() -> None:
    rollout = opened()
    narrowed = replace(rollout, plan=Plan(rollout="r", waves=(PlanWave(pilots=("a",)), EVERYBODY)))

    assert decide(narrowed, facts(silent()), NOON).phase is Phase.HALTED


def test_a_revoked_device_holds_nothing() -> None:
    members = devices(a=Outcome.OK, b=Outcome.OK, c=None)
    *others, last = members[CLASS]
    revoked = {CLASS: (*others, replace(last, revoked=True))}

    assert decide(opened(), facts(revoked), NOON).opens is not None
