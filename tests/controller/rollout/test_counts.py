from mailboat_controller.rollout.counts import count_class
from mailboat_controller.rollout.members import Member, Outcome
from mailboat_schemas.cohort import PPM, UPTO_ALL
from mailboat_schemas.desired import OfferWave
from mailboat_schemas.plan import Plan, PlanWave

DIGEST = "c" * 64
PLAN = Plan(rollout="r", waves=(PlanWave(pilots=("a", "b")), PlanWave(count_ppm=PPM, cap_ppm=PPM)))
PILOTS_OPEN = (OfferWave(upto="", roster=8, pilots=("a", "b")),)
ALL_OPEN = (*PILOTS_OPEN, OfferWave(upto=UPTO_ALL, roster=8))


def member(device: str, number: int, outcome: Outcome | None = None, **more: object) -> Member:
    return Member(device=device, enrolment_number=number, outcome=outcome, **more)  # type: ignore[arg-type]


FLEET = (
    member("a", 1, Outcome.OK),
    member("b", 2, Outcome.EXPOSED),
    member("c", 3),
    member("d", 4, Outcome.FAILED),
    member("e", 5, Outcome.REFUSED, because="needs 9 bytes"),
    member("f", 6, revoked=True),
    member("g", 7, Outcome.RETURNED),
    member("h", 9),
)


def test_every_device_is_counted_in_exactly_one_place() -> None:
    counts, _ = count_class(PLAN, DIGEST, ALL_OPEN, FLEET)

    assert counts.to_json() == {
        "devices": 8,
        "eligible": 6,
        "excluded": {"refused: needs 9 bytes": 1, "revoked": 1},
        "not_open": 1,  # h was enrolled after the roster
        "waiting": 1,  # c
        "in_progress": 2,  # b; g came back without a verdict, which is none
        "ok": 1,
        "failed": 1,
    }


def test_a_device_counts_in_the_first_wave_that_lets_it_in() -> None:
    _, (pilots, rest) = count_class(PLAN, DIGEST, ALL_OPEN, FLEET)

    assert (pilots.devices, pilots.ok, pilots.in_progress) == (2, 1, 1)
    assert (rest.devices, rest.failed, rest.excluded_total) == (5, 1, 2)


def test_before_its_wave_opens_a_device_is_not_open_and_not_waiting() -> None:
    counts, _ = count_class(PLAN, DIGEST, PILOTS_OPEN, FLEET)

    assert (counts.not_open, counts.waiting) == (2, 0)
