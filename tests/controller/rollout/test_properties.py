"""What holds for every fleet, plan and story; the seed of a failing run is printed."""

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from mailboat_controller.rollout.counts import count_class, first_wave
from mailboat_controller.rollout.decide import Facts, Rollout, decide
from mailboat_controller.rollout.members import Member, Outcome, stronger
from mailboat_controller.rollout.state import FINAL, Phase
from mailboat_schemas import cohort
from mailboat_schemas.cohort import PPM
from mailboat_schemas.plan import Plan, PlanWave

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
CLASS = "kiosk"
DIGEST = "e" * 64

waves = st.builds(
    PlanWave,
    pilots=st.lists(st.sampled_from(["dev-1", "dev-2", "nobody"]), max_size=2, unique=True).map(
        tuple
    ),
    count=st.integers(0, 12),
    count_ppm=st.sampled_from([0, 100_000, 500_000, PPM]),
    cap_ppm=st.sampled_from([0, 200_000, 700_000, PPM]),
    ring=st.sampled_from([{}, {"ring": "lab"}]),
    ok_min=st.sampled_from([0, 0, 1, 3]),
)
plans = st.builds(
    Plan, rollout=st.just("r"), waves=st.lists(waves, min_size=1, max_size=4).map(tuple)
)
fleets = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.sampled_from([None, *Outcome])),
    min_size=0,
    max_size=15,
)


def members(fleet: list[tuple[bool, bool, Outcome | None]]) -> tuple[Member, ...]:
    return tuple(
        Member(
            device=f"dev-{n}",
            enrolment_number=n,
            labels={"ring": "lab"} if lab else {},
            revoked=revoked,
            outcome=outcome,
        )
        for n, (lab, revoked, outcome) in enumerate(fleet, start=1)
    )


def step(rollout: Rollout, devices: tuple[Member, ...]) -> Rollout:
    decision = decide(rollout, Facts(members={CLASS: devices}, approved=True), NOON)
    opened = dict(rollout.opened)
    for name, wave in (decision.opens or {}).items():
        opened[name] = (*opened.get(name, ()), wave)
    return replace(rollout, phase=decision.phase, because=decision.because, opened=opened)


def begun(plan: Plan) -> Rollout:
    return Rollout(
        name="r", model="m", version="1.0.0", digest=DIGEST, plan=plan, phase=Phase.PLANNED
    )


def inside(rollout: Rollout, devices: tuple[Member, ...]) -> set[str]:
    opened = rollout.opened.get(CLASS, ())
    return {m.device for m in devices if first_wave(rollout.plan, DIGEST, opened, m) is not None}


@given(plans, st.lists(fleets, min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_whatever_happens_the_counts_add_up(
    plan: Plan, story: list[list[tuple[bool, bool, Outcome | None]]]
) -> None:
    rollout = begun(plan)
    for fleet in story:
        devices = members(fleet)
        rollout = step(rollout, devices)
        opened = rollout.opened.get(CLASS, ())

        total, by_wave = count_class(plan, DIGEST, opened, devices)
        assert total.devices == len(devices) == total.excluded_total + total.eligible
        assert sum(wave.devices for wave in by_wave) == len(inside(rollout, devices))
        assert all(w.devices == w.excluded_total + w.eligible for w in by_wave)


@given(plans, fleets, st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_waves_are_only_added_and_an_open_one_never_changes(
    plan: Plan, fleet: list[tuple[bool, bool, Outcome | None]], steps: int
) -> None:
    rollout, devices = begun(plan), members(fleet)
    for _ in range(steps):
        following = step(rollout, devices)
        held = rollout.opened.get(CLASS, ())
        assert following.opened.get(CLASS, ())[: len(held)] == held
        assert inside(rollout, devices) <= inside(following, devices)
        rollout = following


@given(plans, fleets, st.integers(1, 10))
@settings(max_examples=60, deadline=None)
def test_nothing_opens_beyond_the_approved_plan(
    plan: Plan, fleet: list[tuple[bool, bool, Outcome | None]], steps: int
) -> None:
    rollout, devices = begun(plan), members(fleet)
    for _ in range(steps):
        rollout = step(rollout, devices)
    opened = rollout.opened.get(CLASS, ())

    assert len(opened) <= len(plan.waves)
    for wave, approved in zip(opened, plan.waves, strict=False):
        assert wave.upto <= cohort.upto_of_ppm(approved.cap_ppm)
        assert set(wave.pilots) <= set(approved.pilots)
        named = approved.count or -(-approved.count_ppm * len(devices) // PPM)
        by_position = [
            m
            for m in devices
            if not m.revoked
            and approved.matches(dict(m.labels))
            and cohort.position(DIGEST, m.device) <= wave.upto
        ]
        assert len(by_position) <= named


@given(plans, fleets, st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_a_failure_always_halts(
    plan: Plan, fleet: list[tuple[bool, bool, Outcome | None]], steps: int
) -> None:
    devices = tuple(replace(m, outcome=None) for m in members(fleet))
    rollout = step(begun(plan), devices)
    for _ in range(steps):
        rollout = step(rollout, devices)
    bad = Member(device="bad", enrolment_number=99, outcome=Outcome.FAILED)

    if rollout.phase not in FINAL:
        assert step(rollout, (*devices, bad)).phase is Phase.HALTED


@given(plans, st.integers(1, 15), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_silence_never_promotes(plan: Plan, size: int, steps: int) -> None:
    devices = members([(True, False, None)] * size)
    rollout = step(begun(plan), devices)
    for _ in range(steps):
        rollout = step(rollout, devices)

    assert rollout.phase is Phase.RUNNING
    assert rollout.waves_open <= 1


@given(st.lists(st.sampled_from(list(Outcome)), min_size=1, max_size=8), st.randoms())
def test_the_fold_does_not_care_about_order_or_repetition(told: list[Outcome], rng: object) -> None:
    def fold(news: list[Outcome]) -> Outcome | None:
        held: Outcome | None = None
        for each in news:
            held = stronger(held, each)
        return held

    shuffled = told * 2
    rng.shuffle(shuffled)  # type: ignore[attr-defined]

    assert fold(told) is fold(shuffled)
