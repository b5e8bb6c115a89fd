"""Any news in any order, twice or late: what a statistical wave decides, beside an oracle that
counts with exact fractions and knows nothing of the code."""

import math
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import comb
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from mailboat_controller.rollout.counts import count_class
from mailboat_controller.rollout.decide import Facts, Rollout, decide
from mailboat_controller.rollout.members import Member, Outcome, stronger
from mailboat_controller.rollout.state import Phase
from mailboat_schemas.cohort import PPM, UPTO_ALL
from mailboat_schemas.desired import OfferWave
from mailboat_schemas.documents.rollout_gate import Gate, GateKind
from mailboat_schemas.gate_terms import terms_of
from mailboat_schemas.plan import Plan, PlanWave

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
LOOK = NOON + timedelta(hours=12)
CLASS = "kiosk"
TERMS = terms_of(Gate(kind=GateKind.STATISTICAL, p1=20, looks=2))
WAVE = PlanWave(count_ppm=PPM, cap_ppm=PPM, gate=TERMS)
PLAN = Plan(rollout="r", waves=(WAVE,))
OPEN = (OfferWave(upto=UPTO_ALL, roster=10**6),)
DIGEST = "d" * 64

# Mostly good news, or nothing would ever pass.
told = st.sampled_from(
    [
        *[(Outcome.EXPOSED, Outcome.OK)] * 30,
        (Outcome.EXPOSED,),
        (Outcome.REFUSED,),
        (Outcome.EXPOSED, Outcome.RETURNED),
        (Outcome.EXPOSED, Outcome.FAILED),
        (Outcome.OK, Outcome.FAILED),
        (),
    ]
)
stories = st.lists(told, min_size=0, max_size=70)


def members(news: list[list[Outcome]]) -> tuple[Member, ...]:
    found = []
    for number, each in enumerate(news, start=1):
        outcome: Outcome | None = None
        for one in each:
            outcome = stronger(outcome, one)
        exposed = any(one is not Outcome.REFUSED for one in each)
        found.append(
            Member(
                device=f"dev-{number}",
                enrolment_number=number,
                outcome=outcome,
                exposed_at_ms=int(NOON.timestamp() * 1000) if exposed else None,
            )
        )
    return tuple(found)


def decided(devices: tuple[Member, ...], now: datetime) -> Phase:
    rollout = Rollout(
        name="r",
        model="m",
        version="1.0.0",
        digest=DIGEST,
        plan=PLAN,
        phase=Phase.RUNNING,
        opened={CLASS: OPEN},
        wave_opened_at=NOON,
    )
    return decide(rollout, Facts(members={CLASS: devices}, approved=True), now).phase


def expected(news: list[list[Outcome]]) -> Phase:
    """At the first look, before anybody is overdue."""
    ends = [max(each, key=list(Outcome).index) for each in news if each]
    ok, failed = ends.count(Outcome.OK), ends.count(Outcome.FAILED)
    silent = ends.count(Outcome.EXPOSED) + ends.count(Outcome.RETURNED)
    for healthy in (Fraction(1, 100), Fraction(7, 100)):
        better = Fraction(3, 10) / healthy
        worse = Fraction(7, 10) / (1 - healthy)
        if ok * math.log(worse) + failed * math.log(better) >= math.log(100):
            return Phase.HALTED
    trials, against = ok + failed + silent, failed + silent
    share = Fraction(1, 5)
    tail = sum(comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(against + 1))
    passes = ok > 0 and tail <= Fraction(5, 1000)
    return Phase.COMPLETED if passes else Phase.RUNNING


@given(stories, st.integers(0, 2**32))
@settings(max_examples=120, deadline=None)
def test_it_decides_what_exact_counting_says_in_whatever_order_news_comes(
    news: list[tuple[Outcome, ...]], seed: int
) -> None:
    rng = Random(seed)
    shuffled = [rng.sample([*each, *each], 2 * len(each)) for each in news]  # twice, out of order

    assert decided(members(shuffled), LOOK) is expected([list(each) for each in news])


@given(stories)
@settings(max_examples=60, deadline=None)
def test_the_places_of_people_and_the_evidence_of_the_gate_count_the_same_devices(
    news: list[tuple[Outcome, ...]],
) -> None:
    devices = members([list(each) for each in news])
    total, (wave,) = count_class(PLAN, DIGEST, OPEN, devices)
    ends = [member.outcome for member in devices]

    assert total.devices == len(devices) == total.excluded_total + total.eligible
    assert wave == total
    assert total.ok == ends.count(Outcome.OK)
    assert total.failed == ends.count(Outcome.FAILED)
    assert total.in_progress == ends.count(Outcome.EXPOSED) + ends.count(Outcome.RETURNED)


@given(st.integers(1, 80), st.integers(0, 400))
@settings(max_examples=40, deadline=None)
def test_silence_never_promotes_however_long_it_lasts(size: int, hours: int) -> None:
    silent = members([[Outcome.EXPOSED]] * size)

    assert decided(silent, NOON + timedelta(hours=hours)) in {Phase.RUNNING, Phase.HALTED}
