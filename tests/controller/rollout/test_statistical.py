"""The statistical gate: when it halts, when it promotes, and what it says it lacks."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailboat_controller.rollout import halting, promoting
from mailboat_controller.rollout.decide import Decision, Facts, Rollout, decide, promote
from mailboat_controller.rollout.evidence import Evidence
from mailboat_controller.rollout.members import Member, Outcome
from mailboat_controller.rollout.state import Phase
from mailboat_schemas.cohort import PPM, UPTO_ALL
from mailboat_schemas.desired import OfferWave
from mailboat_schemas.documents.rollout_gate import Gate, GateKind
from mailboat_schemas.errors import Conflict
from mailboat_schemas.gate_terms import StatisticalGate, terms_of
from mailboat_schemas.plan import Plan, PlanWave

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
EARLY = NOON + timedelta(hours=1)
FIRST_LOOK = NOON + timedelta(hours=12)
CLASS = "kiosk"
_terms = terms_of(Gate(kind=GateKind.STATISTICAL))
assert _terms is not None
TERMS: StatisticalGate = _terms
CONTROLLED = TERMS.model_copy(update={"control": True})
CANARIES = PlanWave(count=200, cap_ppm=PPM, gate=TERMS)
EVERYBODY = PlanWave(count_ppm=PPM, cap_ppm=PPM, gate=TERMS)
PLAN = Plan(rollout="r", waves=(CANARIES, EVERYBODY))
ALL = (OfferWave(upto=UPTO_ALL, roster=10**6),)


def fleet(
    ok: int = 0,
    failed: int = 0,
    silent: int = 0,
    waiting: int = 0,
    *,
    at: datetime = EARLY,
    first: int = 1,
    code: str = "",
) -> tuple[Member, ...]:
    outcomes = [Outcome.OK] * ok + [Outcome.FAILED] * failed + [Outcome.EXPOSED] * silent
    return tuple(
        Member(
            device=f"dev-{n}",
            enrolment_number=n,
            outcome=outcome,
            code=code if outcome is Outcome.FAILED else "",
            exposed_at_ms=None if outcome is None else int(at.timestamp() * 1000),
        )
        for n, outcome in enumerate([*outcomes, *[None] * waiting], start=first)
    )


def running(plan: Plan = PLAN, waves: int = 1) -> Rollout:
    return Rollout(
        name="r",
        model="m",
        version="1.0.0",
        digest="d" * 64,
        plan=plan,
        phase=Phase.RUNNING,
        opened={CLASS: ALL * waves},
        wave_opened_at=NOON,
    )


def told(members: tuple[Member, ...], now: datetime, rollout: Rollout | None = None) -> Decision:
    return decide(rollout or running(), Facts(members={CLASS: members}, approved=True), now)


@pytest.mark.parametrize(("failed", "ok"), [(2, 6), (3, 16), (4, 25)])
def test_it_halts_on_so_many_failures_with_at_most_so_many_good(failed: int, ok: int) -> None:
    plan = Plan(rollout="r", waves=(CANARIES,))

    assert told(fleet(ok, failed), EARLY, running(plan)).phase is Phase.HALTED
    assert told(fleet(ok + 1, failed), EARLY, running(plan)).phase is Phase.RUNNING


def test_one_failure_is_no_evidence_against_a_release() -> None:
    assert told(fleet(0, 1), EARLY).phase is Phase.RUNNING


def test_a_halt_says_which_rule_and_on_what_numbers() -> None:
    decision = told(fleet(5, 3), EARLY)

    assert decision.because == "3 of 8 with a verdict failed"
    assert decision.evidence["rule"] == "failing"
    assert (decision.evidence["ok"], decision.evidence["failed"]) == (5, 3)
    assert decision.evidence["log_e1"] == pytest.approx(8.47, abs=0.01)


def test_devices_that_went_silent_halt_once_they_are_overdue() -> None:
    members = fleet(ok=20, silent=15)

    in_time = told(members, EARLY + timedelta(hours=23, minutes=59))
    overdue = told(members, EARLY + timedelta(hours=24))

    assert in_time.phase is Phase.RUNNING
    assert overdue.phase is Phase.HALTED
    assert overdue.because == "15 overdue and 0 failed beside 20 good"
    assert overdue.evidence["rule"] == "vanishing"


def test_a_device_that_went_back_without_a_verdict_is_silent_but_not_gone() -> None:
    back = tuple(replace(m, outcome=Outcome.RETURNED) for m in fleet(silent=40))

    assert told(back, NOON + timedelta(days=3)).phase is Phase.RUNNING


def test_a_bad_class_halts_however_good_the_others_are() -> None:
    members = {CLASS: fleet(ok=150), "gateway": fleet(ok=1, failed=3, first=500)}
    rollout = replace(running(), opened={CLASS: ALL, "gateway": ALL})

    decision = decide(rollout, Facts(members=members, approved=True), EARLY)

    assert decision.phase is Phase.HALTED
    assert decision.because == "3 of 4 with a verdict failed in class gateway"


def test_a_bad_later_wave_halts_however_good_the_first_one_was() -> None:
    first = OfferWave(upto=UPTO_ALL, roster=200)
    rollout = replace(running(waves=2), opened={CLASS: (first, *ALL)})
    members = fleet(ok=200) + fleet(ok=3, failed=4, first=201)

    decision = told(members, EARLY, rollout)

    assert decision.because == "4 of 7 with a verdict failed in wave 2"


def test_other_bytes_than_were_signed_halt_at_once_and_a_reboot_loop_at_the_second_device() -> None:
    refused = tuple(
        replace(m, outcome=Outcome.REFUSED, code="E-DIGEST") for m in fleet(waiting=1, first=900)
    )

    assert told(fleet(100) + refused, EARLY).because == "integrity violation on dev-900"
    assert told(fleet(100, 1, code="tries_exhausted"), EARLY).phase is Phase.RUNNING
    looping = told(fleet(100, 2, code="tries_exhausted"), EARLY)
    assert looping.because == "2 devices restart in a loop: dev-101, dev-102"


def test_of_many_devices_the_first_are_named() -> None:
    names = [f"dev-{n}" for n in range(halting.NAMES_SHOWN_MAX + 1)]

    assert halting.named(names[:-1]) == ", ".join(names[:-1])
    assert halting.named(names) == ", ".join(names[:-1]) + " and 1 more"


def test_it_promotes_at_the_first_look_after_the_soak_and_not_a_second_before() -> None:
    members = fleet(ok=191, failed=1, silent=8)

    before = told(members, FIRST_LOOK - timedelta(seconds=1))
    at_once = told(members, FIRST_LOOK)

    assert (before.opens, before.because) == (
        None,
        "wave 1 of 2: soaks until 2026-06-02 00:00:00Z",
    )
    assert at_once.opens is not None
    assert at_once.evidence["look"] == 1
    assert at_once.evidence["error"] == 0.005


def test_silence_counts_against_and_the_gate_says_how_much_is_missing() -> None:
    decision = told(fleet(ok=188, failed=1, silent=11), FIRST_LOOK)

    assert decision.opens is None
    assert decision.because == (
        "wave 1 of 2: look 1 of 5: 188 of 200 exposed are good, 1 failed, 11 silent; needs "
        "36 more good verdicts or 3 fewer silent; next look 2026-06-02 06:00:00Z"
    )
    fewer = told(fleet(ok=191, failed=1, silent=8), FIRST_LOOK)
    assert fewer.opens is not None


def test_what_it_says_is_missing_is_exactly_enough() -> None:
    asked = fleet(ok=188, failed=1, silent=11)
    words = told(asked, FIRST_LOOK).because
    more = int(words.split("needs ")[1].split()[0])

    assert told(asked + fleet(ok=more, first=500), FIRST_LOOK).opens is not None
    assert told(asked + fleet(ok=more - 1, first=500), FIRST_LOOK).opens is None


def test_devices_exposed_after_a_look_are_asked_about_at_the_next() -> None:
    late = FIRST_LOOK + timedelta(hours=1)
    members = fleet(ok=20) + fleet(ok=100, at=late, first=500)

    assert told(members, late).opens is None
    assert told(members, FIRST_LOOK + timedelta(hours=6)).opens is not None


def test_a_verdict_that_comes_late_counts_for_the_look_it_was_missing_at() -> None:
    silent = fleet(ok=188, silent=12)
    answered = fleet(ok=195, silent=5)

    assert told(silent, FIRST_LOOK).opens is None
    assert told(answered, FIRST_LOOK + timedelta(minutes=5)).opens is not None


def test_the_errors_of_all_looks_add_up_to_what_was_agreed() -> None:
    for looks in (1, 2, 5, 16):
        terms = TERMS.model_copy(update={"looks": looks})

        assert sum(promoting.error_of(terms, k) for k in range(looks)) == pytest.approx(0.01)


def test_a_class_without_one_good_verdict_holds_the_others() -> None:
    members = {CLASS: fleet(ok=200), "gateway": fleet(silent=2, first=500)}
    rollout = replace(running(), opened={CLASS: ALL, "gateway": ALL})

    decision = decide(rollout, Facts(members=members, approved=True), FIRST_LOOK)

    assert decision.opens is None
    assert "no good verdict yet in gateway" in decision.because


def test_good_verdicts_of_an_earlier_retry_speak_of_survivors_and_do_not_count() -> None:
    earlier = tuple(replace(m, exposed_at_ms=None) for m in fleet(ok=200))

    decision = told(earlier, FIRST_LOOK)

    assert decision.opens is None
    assert "no device is exposed yet" in decision.because


def test_where_silence_is_usual_a_control_group_allows_for_it() -> None:
    terms = TERMS.model_copy(update={"control": True})
    plan = Plan(rollout="r", waves=(PlanWave(count=200, cap_ppm=PPM, gate=terms), EVERYBODY))
    opened = {CLASS: (OfferWave(upto=UPTO_ALL, roster=200),)}
    rollout = replace(running(plan), opened=opened)
    third_look = NOON + timedelta(hours=12 + 3 * 6)
    asked = fleet(ok=189, silent=11)
    seen = [
        int((NOON + timedelta(hours=2 if n < 5000 * 0.06 else 29)).timestamp() * 1000)
        for n in range(5000)
    ]
    control = tuple(
        Member(device=f"other-{n}", enrolment_number=n + 300, seen_at_ms=at)
        for n, at in enumerate(seen)
    )
    back = tuple(replace(m, seen_at_ms=max(seen)) for m in control)

    def opens(others: tuple[Member, ...]) -> bool:
        return told(asked + others, third_look, rollout).opens is not None

    assert opens(control)
    assert not opens(control[:1999])  # fewer than ten times as many
    assert not opens(back)


def test_slow_devices_hold_a_wave_like_failed_ones() -> None:
    terms = TERMS.model_copy(update={"latency_ratio_ppm": 1_200_000})
    wave = CANARIES.model_copy(update={"gate": terms})
    rollout = running(Plan(rollout="r", waves=(wave, wave)))
    quick = tuple(replace(m, slow=False) for m in fleet(ok=195))
    slow = tuple(replace(m, slow=True) for m in fleet(ok=5, first=500))

    assert told(quick + slow, FIRST_LOOK, rollout).opens is not None
    unmeasured = told(fleet(ok=200), FIRST_LOOK, rollout)
    assert unmeasured.opens is None
    assert "latency: " in unmeasured.because
    many = tuple(replace(m, slow=True) for m in fleet(ok=30, first=500))
    assert told(quick[:20] + many, EARLY, rollout).because == (
        "30 of 50 with a verdict failed in latency"
    )


def test_after_completion_a_few_failures_halt_nothing_and_many_do() -> None:
    done = replace(running(waves=2), phase=Phase.COMPLETED)

    def phase(failed: int, ok: int) -> Phase:
        facts = Facts(members={CLASS: fleet(failed=failed)}, approved=True, ok_elsewhere=ok)
        return decide(done, facts, EARLY).phase

    assert phase(10, 900) is Phase.COMPLETED
    assert phase(100, 400) is Phase.HALTED


def test_a_wave_that_waited_as_long_as_it_may_pauses_for_a_person() -> None:
    wave = CANARIES.model_copy(update={"wait_max": 3 * 86400})
    rollout = running(Plan(rollout="r", waves=(wave, EVERYBODY)))
    few = fleet(ok=20)

    before = told(few, NOON + timedelta(days=3) - timedelta(seconds=1), rollout)
    at_once = told(few, NOON + timedelta(days=3), rollout)
    resumed = replace(rollout, resumed_at=NOON + timedelta(days=2))

    assert before.phase is Phase.RUNNING
    assert at_once.phase is Phase.PAUSED
    assert at_once.because.startswith("waited as long as its plan allows, for a person now; ")
    assert told(few, NOON + timedelta(days=4), resumed).phase is Phase.RUNNING


def test_more_verdicts_than_there_will_ever_be_are_not_named_as_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lacks = told(fleet(ok=30), FIRST_LOOK).because
    monkeypatch.setattr(promoting, "MORE_MAX", 10)

    assert "needs 21 more good verdicts" in lacks
    assert "needs a person: too many failed" in told(fleet(ok=30), FIRST_LOOK).because


def test_a_person_promotes_what_a_small_wave_cannot_prove() -> None:
    small = Facts(members={CLASS: fleet(ok=10, waiting=20)}, approved=True)

    assert decide(running(), small, FIRST_LOOK).opens is None
    decision = promote(running(), small, FIRST_LOOK)

    assert decision.opens is not None
    assert "the gate held: wave 1 of 2: look 1 of 5: 10 of 10 exposed are good" in decision.because
    assert decision.evidence["ok"] == 10


def test_a_person_cannot_promote_against_bad_news_or_ahead_of_the_plan() -> None:
    bad = Facts(members={CLASS: fleet(ok=2, failed=4)}, approved=True)
    good = Facts(members={CLASS: fleet(ok=10)}, approved=True)
    later = EVERYBODY.model_copy(update={"earliest": int(FIRST_LOOK.timestamp()) + 1})
    rollout = running(Plan(rollout="r", waves=(CANARIES, later)))

    with pytest.raises(Conflict, match="4 of 6 with a verdict failed"):
        promote(running(), bad, FIRST_LOOK)
    with pytest.raises(Conflict, match="approved from a later time on"):
        promote(rollout, good, FIRST_LOOK)
    with pytest.raises(Conflict, match="No wave"):
        promote(replace(running(), opened={}), good, FIRST_LOOK)
    with pytest.raises(Conflict, match="is halted"):
        promote(replace(running(), phase=Phase.HALTED), good, FIRST_LOOK)


def test_promoting_the_last_wave_completes_a_paused_rollout() -> None:
    paused = replace(running(waves=2), phase=Phase.PAUSED)
    good = Facts(members={CLASS: fleet(ok=10)}, approved=True)

    assert promote(paused, good, FIRST_LOOK).phase is Phase.COMPLETED


numbers = st.integers(0, 60)


@given(ok=numbers, failed=numbers, silent=numbers)
@settings(max_examples=60, deadline=None)
def test_more_silence_or_failures_never_help_and_more_good_verdicts_never_harm(
    ok: int, failed: int, silent: int
) -> None:
    def passes(ok: int, failed: int, silent: int) -> bool:
        members = fleet(ok, failed, silent)
        return promoting.judge(TERMS, members, (), NOON, FIRST_LOOK).passed

    def halts(ok: int, failed: int, overdue: int) -> bool:
        evidence = Evidence(ok=ok, failed=failed, silent=overdue, overdue=overdue)
        return halting.by_evidence(TERMS, evidence, ()) is not None

    if passes(ok, failed, silent):
        assert passes(ok + 1, failed, silent)
        if silent:
            assert passes(ok + 1, failed, silent - 1)
    else:
        assert not passes(ok, failed + 1, silent)
        assert not passes(ok, failed, silent + 1)
    if halts(ok, failed, silent):
        assert halts(ok, failed + 1, silent)
        assert halts(ok, failed, silent + 1)


def test_a_control_group_that_lost_its_network_does_not_promote_one_good_verdict() -> None:
    # 98 % silent: what a release breaks cannot be seen any more, so nothing is excluded.
    passes = promoting.bound_of(CONTROLLED, (2000, 1960), 200, 0.005)

    assert not passes(199, 200)
    assert passes(60, 200)


@pytest.mark.parametrize("usual", [0.02, 0.1, 0.3, 0.5, 0.7])
def test_usual_silence_does_not_make_room_for_a_release_that_breaks_p1(usual: float) -> None:
    """As many are against as are silent anyway, and a tenth of the others."""
    exposed = 10_000
    against = round(exposed * (usual + (1 - usual) * TERMS.p1_ppm / PPM))

    passes = promoting.bound_of(
        CONTROLLED, (10 * exposed, round(10 * exposed * usual)), exposed, 0.1
    )

    assert not passes(against, exposed)
    assert passes(round(exposed * usual), exposed)


def test_an_outage_that_takes_the_control_group_too_halts_nothing() -> None:
    """Two days after the wave opened 40 of 200 are overdue: bad, unless others vanish likewise."""
    plan = Plan(rollout="r", waves=(PlanWave(count=200, cap_ppm=PPM, gate=CONTROLLED), EVERYBODY))
    rollout = replace(running(plan), opened={CLASS: (OfferWave(upto=UPTO_ALL, roster=200),)})
    asked, later = fleet(ok=160, silent=40), NOON + timedelta(hours=48)

    def control(devices: int, vanished: int) -> tuple[Member, ...]:
        seen = (NOON + timedelta(hours=2), NOON + timedelta(hours=47))
        return tuple(
            Member(
                device=f"other-{n}",
                enrolment_number=n + 300,
                seen_at_ms=int(seen[n >= vanished].timestamp() * 1000),
            )
            for n in range(devices)
        )

    def halts(others: tuple[Member, ...], failed: int = 0) -> bool:
        everybody = asked + fleet(failed=failed, first=190) + others
        return told(everybody, later, rollout).phase is Phase.HALTED

    assert halts(())
    assert halts(control(4000, 40))  # where silence is not usual
    assert halts(control(1999, 400))  # fewer than ten times as many
    assert not halts(control(4000, 800))
    assert not halts(control(4000, 2000))  # more than a broken release would take away
    assert halts(control(4000, 2000), failed=60)
