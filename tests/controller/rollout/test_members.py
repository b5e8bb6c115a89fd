from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from mailboat_controller.rollout.members import (
    Member,
    Outcome,
    admits,
    excluded,
    open_wave,
    stronger,
    wanted,
)
from mailboat_schemas import cohort
from mailboat_schemas.cohort import PPM
from mailboat_schemas.desired import ABSENT_MAX, OfferWave
from mailboat_schemas.documents.rollout_gate import Gate, GateKind
from mailboat_schemas.gate_terms import terms_of
from mailboat_schemas.plan import Plan, PlanWave

DIGEST = "d" * 64
SOME = PlanWave(count=3, cap_ppm=PPM)


def fleet(size: int, **labels: str) -> tuple[Member, ...]:
    return tuple(
        Member(device=f"dev-{n}", enrolment_number=n, labels=labels) for n in range(1, size + 1)
    )


def let_in(wave: PlanWave, members: tuple[Member, ...]) -> list[str]:
    opened = open_wave(wave, DIGEST, members)
    return [m.device for m in members if admits(opened, wave, DIGEST, m)]


def test_where_a_device_stands_is_worked_out_for_the_release_that_is_asked_about() -> None:
    other = "e" * 64
    (member,) = fleet(1)

    for digest in (DIGEST, other, DIGEST):
        assert member.place(digest) == cohort.position(digest, "dev-1")
    assert replace(member, device="dev-2").place(DIGEST) == cohort.position(DIGEST, "dev-2")
    assert member == fleet(1)[0]


def test_a_wave_of_three_lets_in_exactly_three_of_a_hundred() -> None:
    assert len(let_in(SOME, fleet(100))) == 3


def test_a_wave_of_a_share_is_rounded_up() -> None:
    assert wanted(PlanWave(count_ppm=50_000, cap_ppm=PPM), 30) == 2
    assert len(let_in(PlanWave(count_ppm=50_000, cap_ppm=PPM), fleet(30))) == 2


def test_revoked_devices_take_no_place_in_a_wave() -> None:
    members = fleet(5)
    first = cohort.ranked(DIGEST, [m.device for m in members])[0]
    gone = tuple(
        Member(device=m.device, enrolment_number=m.enrolment_number, revoked=m.device == first)
        for m in members
    )

    opened = open_wave(SOME, DIGEST, gone)

    assert sum(admits(opened, SOME, DIGEST, m) and not m.revoked for m in gone) == 3


def test_a_device_enrolled_after_the_wave_opened_waits_for_the_next() -> None:
    everybody = PlanWave(count_ppm=PPM, cap_ppm=PPM)
    opened = open_wave(everybody, DIGEST, fleet(4))
    late = Member(device="late", enrolment_number=5)

    assert opened.roster == 4
    assert not admits(opened, everybody, DIGEST, late)


def test_a_wave_never_opens_wider_than_its_cap() -> None:
    opened = open_wave(PlanWave(count=50, cap_ppm=100_000), DIGEST, fleet(100))

    assert opened.upto == cohort.upto_of_ppm(100_000)


def test_a_ring_lets_in_only_devices_with_its_labels() -> None:
    ring = PlanWave(count_ppm=PPM, cap_ppm=PPM, ring={"ring": "lab"})
    members = (*fleet(2, ring="lab"), Member(device="other", enrolment_number=9))

    assert let_in(ring, members) == ["dev-1", "dev-2"]


def test_a_wave_of_pilots_lets_in_those_and_nobody_by_position() -> None:
    pilots = PlanWave(pilots=("dev-2", "not-enrolled-yet"), cap_ppm=0)

    assert let_in(pilots, fleet(20)) == ["dev-2"]
    assert open_wave(pilots, DIGEST, fleet(2)).pilots == ("dev-2", "not-enrolled-yet")


def test_pilots_of_another_class_are_not_named_in_this_one() -> None:
    pilots = PlanWave(pilots=("here", "there"))

    opened = open_wave(pilots, DIGEST, (Member(device="here", enrolment_number=1),), {"there"})

    assert opened.pilots == ("here",)


def test_a_class_without_devices_opens_to_nobody() -> None:
    opened = open_wave(PlanWave(count_ppm=PPM, cap_ppm=PPM), DIGEST, ())

    assert (opened.upto, opened.roster) == (cohort.UPTO_NONE, 1)


def test_excluded_devices_come_with_a_reason() -> None:
    plan = Plan(rollout="r", waves=(PlanWave(count_ppm=PPM, cap_ppm=PPM, ring={"ring": "lab"}),))

    assert excluded(Member(device="a", enrolment_number=1, revoked=True), plan) == "revoked"
    assert excluded(Member(device="b", enrolment_number=2), plan) == "in no ring of the plan"
    assert excluded(Member(device="c", enrolment_number=3, labels={"ring": "lab"}), plan) is None


def test_a_failure_outweighs_everything_and_a_good_verdict_everything_but_that() -> None:
    assert stronger(Outcome.OK, Outcome.FAILED) is Outcome.FAILED
    assert stronger(Outcome.FAILED, Outcome.OK) is Outcome.FAILED
    assert stronger(Outcome.OK, Outcome.RETURNED) is Outcome.OK
    assert stronger(Outcome.EXPOSED, Outcome.REFUSED) is Outcome.EXPOSED


def canaries(count: int, size: int, away: int) -> tuple[list[str], list[str]]:
    """Names let in and names left out, of a fleet whose first ``away`` by rank are not there."""
    gate = terms_of(Gate(kind=GateKind.STATISTICAL))
    wave = PlanWave(count=count, cap_ppm=PPM, gate=gate)
    order = cohort.ranked(DIGEST, [m.device for m in fleet(size)])
    members = tuple(
        replace(m, seen_at_ms=50 if m.device in order[:away] else 100) for m in fleet(size)
    )
    opened = open_wave(wave, DIGEST, members, seen_since_ms=100)
    return [m.device for m in members if admits(opened, wave, DIGEST, m)], list(opened.absent)


def test_canaries_are_devices_heard_from_lately_and_exactly_as_many_as_named() -> None:
    let_in, left_out = canaries(3, 20, away=4)

    order = cohort.ranked(DIGEST, [m.device for m in fleet(20)])
    assert sorted(let_in) == sorted(order[4:7])
    assert left_out == order[:4]


def test_too_many_absent_devices_are_not_named_and_the_rank_decides_alone() -> None:
    let_in, left_out = canaries(3, ABSENT_MAX + 50, away=ABSENT_MAX + 1)

    order = cohort.ranked(DIGEST, [m.device for m in fleet(ABSENT_MAX + 50)])
    assert (sorted(let_in), left_out) == (sorted(order[:3]), [])


def test_canaries_of_a_ring_without_devices_let_in_nobody_who_joins_the_ring_later() -> None:
    gate = terms_of(Gate(kind=GateKind.STATISTICAL))
    wave = PlanWave(count=3, cap_ppm=PPM, gate=gate, ring={"ring": "canary"})
    opened = open_wave(wave, DIGEST, fleet(50))

    moved = fleet(50, ring="canary")

    assert [m.device for m in moved if admits(opened, wave, DIGEST, m)] == []


def test_with_fewer_devices_heard_from_than_named_the_rank_decides_alone() -> None:
    let_in, left_out = canaries(3, 6, away=4)

    assert (len(let_in), left_out) == (3, [])


@given(
    st.integers(1, 12),
    st.integers(0, 12),
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30),
)
@settings(max_examples=120, deadline=None)
def test_a_later_wave_has_exactly_as_many_as_it_names_whoever_is_away_by_then(
    first: int, more: int, seen: list[tuple[bool, bool]]
) -> None:
    gate = terms_of(Gate(kind=GateKind.STATISTICAL))
    waves = [PlanWave(count=n, cap_ppm=PPM, gate=gate) for n in (first, first + more)]
    open_waves: list[tuple[OfferWave, PlanWave]] = []
    inside: list[set[str]] = []
    for number, wave in enumerate(waves):
        members = tuple(
            replace(m, seen_at_ms=100 if there[number] else 50)
            for m, there in zip(fleet(len(seen)), seen, strict=True)
        )
        opened = open_wave(wave, DIGEST, members, seen_since_ms=100, earlier=open_waves)
        open_waves.append((opened, wave))
        inside.append(
            {m.device for m in members if any(admits(o, w, DIGEST, m) for o, w in open_waves)}
        )

    assert [len(names) for names in inside] == [min(w.count, len(seen)) for w in waves]
    assert inside[0] <= inside[1]
