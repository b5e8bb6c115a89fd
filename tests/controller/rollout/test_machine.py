"""Any story of a fleet, step by step, beside an oracle that knows the promises and not the code."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mailboat_controller.rollout.decide import Decision, Facts, Rollout, decide
from mailboat_controller.rollout.members import Member, Outcome, stronger
from mailboat_controller.rollout.state import FINAL, OFFERED, Phase, Trigger, move
from mailboat_schemas import cohort
from mailboat_schemas.cohort import PPM
from mailboat_schemas.desired import OfferWave
from mailboat_schemas.plan import Plan, PlanWave

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
DIGEST = "f" * 64
CLASSES = ("gateway", "kiosk")
LAB = {"ring": "lab"}

waves = st.builds(
    PlanWave,
    pilots=st.sampled_from([(), ("dev-1",), ("dev-2", "dev-3"), ("nobody",)]),
    count=st.integers(0, 4),
    count_ppm=st.sampled_from([0, 300_000, PPM]),
    cap_ppm=st.sampled_from([400_000, PPM, PPM]),
    ring=st.sampled_from([{}, {}, LAB]),
    ok_min=st.sampled_from([0, 0, 1, 2]),
)
plans = st.builds(
    Plan,
    rollout=st.just("r"),
    waves=st.lists(waves, min_size=1, max_size=3).map(tuple),
    manual_start=st.booleans(),
    expires=st.sampled_from([0, 0, int((NOON + timedelta(hours=20)).timestamp())]),
)
numbers = st.integers(0, 11)


def let_in(waves: tuple[OfferWave, ...], plan: Plan, member: Member) -> bool:
    """As a device reads its manifest: written anew here, so that a mistake is not made twice."""
    place = cohort.position(DIGEST, member.device)
    for wave, approved in zip(waves, plan.waves, strict=False):
        ring = all(member.labels.get(name) == value for name, value in approved.ring.items())
        if member.device in wave.pilots:
            return True
        if ring and place <= wave.upto and member.enrolment_number <= wave.roster:
            return True
    return False


class Story(RuleBasedStateMachine):
    @initialize(plan=plans, first=st.lists(st.tuples(st.sampled_from(CLASSES), st.booleans())))
    def begin(self, plan: Plan, first: list[tuple[str, bool]]) -> None:
        self.now = NOON
        self.approved = True
        self.fleet: dict[str, tuple[Member, ...]] = dict.fromkeys(CLASSES, ())
        self.rollout = Rollout(
            name="r", model="m", version="1.0.0", digest=DIGEST, plan=plan, phase=Phase.PLANNED
        )
        for hardware_class, lab in first[:8]:
            self.enrol(hardware_class, lab)

    @property
    def everybody(self) -> list[Member]:
        return [member for name in CLASSES for member in self.fleet[name]]

    @rule(hardware_class=st.sampled_from(CLASSES), lab=st.booleans())
    def enrol(self, hardware_class: str, lab: bool) -> None:
        number = len(self.everybody) + 1
        member = Member(device=f"dev-{number}", enrolment_number=number, labels=LAB if lab else {})
        self.fleet[hardware_class] = (*self.fleet[hardware_class], member)

    @precondition(lambda self: self.everybody)
    @rule(number=numbers, told=st.sampled_from([*Outcome, *[Outcome.OK] * 4, Outcome.REFUSED]))
    def a_device_that_was_let_in_tells(self, number: int, told: Outcome) -> None:
        name, member = self.one(number)
        opened = self.rollout.opened.get(name, ())
        if self.rollout.phase is Phase.RUNNING and let_in(opened, self.rollout.plan, member):
            self.put(name, replace(member, outcome=stronger(member.outcome, told)))

    @precondition(lambda self: self.everybody)
    @rule(number=numbers)
    def revoke(self, number: int) -> None:
        name, member = self.one(number)
        self.put(name, replace(member, revoked=True))

    @rule(trigger=st.sampled_from([Trigger.START, Trigger.PAUSE, Trigger.RESUME]))
    def order(self, trigger: Trigger) -> None:
        allowed = {
            (Phase.PLANNED, Trigger.START),
            (Phase.RUNNING, Trigger.PAUSE),
            (Phase.PAUSED, Trigger.RESUME),
        }
        if (self.rollout.phase, trigger) in allowed:
            phase = move("r", self.rollout.phase, trigger)
            self.rollout = replace(self.rollout, phase=phase)

    @rule(hours=st.sampled_from([1, 1, 5]))
    def time_passes(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    @rule()
    def withdraw(self) -> None:
        if len(self.everybody) % 3 == 2:  # not in every story, or nothing else would happen
            self.approved = False

    @rule()
    def look(self) -> None:
        before = self.rollout
        decision = decide(before, Facts(members=self.fleet, approved=self.approved), self.now)
        self.rollout = taken(before, decision)
        self.bad_news_halts_at_once(before)
        self.nothing_goes_on_without_verdicts(before, decision)
        self.a_wave_lets_in_no_more_than_it_names(decision)
        self.what_is_open_stays_as_it_is(before)

    def bad_news_halts_at_once(self, before: Rollout) -> None:
        failed = any(member.outcome is Outcome.FAILED for member in self.everybody)
        if before.phase in FINAL:
            assert self.rollout == before
        elif before.phase is not Phase.PLANNED and (failed or not self.approved):
            assert self.rollout.phase is Phase.HALTED
        expires = before.plan.expires
        if before.phase in OFFERED and expires and self.now.timestamp() >= expires:
            assert self.rollout.phase in FINAL

    def nothing_goes_on_without_verdicts(self, before: Rollout, decision: Decision) -> None:
        goes_on = decision.opens is not None or (
            before.phase is Phase.RUNNING and decision.phase is Phase.COMPLETED
        )
        if not goes_on:
            return
        assert before.phase is Phase.RUNNING
        if before.waves_open == 0:
            return
        verdicts = 0
        index = before.waves_open - 1
        approved = before.plan.waves[index]
        for name in CLASSES:
            newest = before.opened[name][index : index + 1]
            plan = before.plan.model_copy(update={"waves": (approved,)})
            inside = [m for m in self.fleet[name] if not m.revoked and let_in(newest, plan, m)]
            good = [m for m in inside if m.outcome is Outcome.OK]
            verdicts += len(good)
            if approved.ok_min:
                assert len(good) >= min(approved.ok_min, len(inside))
            else:
                assert all(m.outcome in {Outcome.OK, Outcome.REFUSED} for m in inside)
        assert verdicts > 0

    def a_wave_lets_in_no_more_than_it_names(self, decision: Decision) -> None:
        for name, wave in (decision.opens or {}).items():
            approved = self.rollout.plan.waves[self.rollout.waves_open - 1]
            ring = [
                m
                for m in self.fleet[name]
                if not m.revoked and all(m.labels.get(k) == v for k, v in approved.ring.items())
            ]
            named = approved.count or -(-approved.count_ppm * len(ring) // PPM)
            by_position = [m for m in ring if cohort.position(DIGEST, m.device) <= wave.upto]
            assert len(by_position) <= named
            if wave.upto < cohort.upto_of_ppm(approved.cap_ppm):
                assert len(by_position) == min(named, len(ring))  # exactly, when no cap stops it

    def what_is_open_stays_as_it_is(self, before: Rollout) -> None:
        for name, waves in before.opened.items():
            assert self.rollout.opened[name][: len(waves)] == waves

    @invariant()
    def no_device_outside_of_the_open_waves_is_exposed(self) -> None:
        for name in CLASSES:
            opened = self.rollout.opened.get(name, ())
            for member in self.fleet[name]:
                if member.outcome not in {None, Outcome.REFUSED}:
                    assert let_in(opened, self.rollout.plan, member)

    def one(self, number: int) -> tuple[str, Member]:
        member = self.everybody[number % len(self.everybody)]
        return next(name for name in CLASSES if member in self.fleet[name]), member

    def put(self, name: str, member: Member) -> None:
        self.fleet[name] = tuple(
            member if held.device == member.device else held for held in self.fleet[name]
        )


def taken(rollout: Rollout, decision: Decision) -> Rollout:
    opens: Mapping[str, OfferWave] = decision.opens or {}
    opened = {
        **rollout.opened,
        **{name: (*rollout.opened.get(name, ()), wave) for name, wave in opens.items()},
    }
    return replace(rollout, phase=decision.phase, because=decision.because, opened=opened)


Story.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestAnyStory = Story.TestCase


@pytest.mark.slow
class TestManyMoreStories(Story.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=500, stateful_step_count=40, deadline=None)
