"""The one rule, check by check."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mailboat_schemas import cohort
from mailboat_schemas.class_budgets import ClassBudgets
from mailboat_schemas.desired import Offer, OfferWave, ReleaseRef
from mailboat_schemas.documents.release import document_digest
from mailboat_schemas.eligibility import Candidate, DeviceFacts, Eligibility, evaluate
from mailboat_schemas.plan import Plan, PlanWave
from mailboat_schemas.trust import Standing
from trust_fleet import CLASS, MODEL, document

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
DOCUMENT = document("1.0.0")
DIGEST = document_digest(DOCUMENT.canonical_bytes())
PLAN = Plan(
    rollout="r",
    waves=(PlanWave(pilots=("dev-1",)), PlanWave(count_ppm=1_000_000, cap_ppm=1_000_000)),
)
FACTS = DeviceFacts(
    device="dev-1",
    hardware_class=CLASS,
    enrolment_number=1,
    runtime_version="1.31.1",
    providers=frozenset({"CPUExecutionProvider"}),
    memory_budget_bytes=1 << 30,
    disk_free_bytes=1 << 30,
)
STANDING = Standing(
    model=MODEL, version="1.0.0", released_digest=DIGEST, approved_digest=DIGEST, plan=PLAN
)
CURRENT = Candidate(
    model=MODEL, version="1.0.0", digest=DIGEST, standing=STANDING, document=DOCUMENT, offer=None
)
PILOT_WAVE = OfferWave(upto="", roster=9, pilots=("dev-1",))
ALL_WAVE = OfferWave(upto=cohort.UPTO_ALL, roster=9)


def offered(*waves: OfferWave, paused: bool = False) -> Candidate:
    ref = ReleaseRef(version="1.0.0", digest=DIGEST)
    return replace(CURRENT, offer=Offer(release=ref, rollout="r", paused=paused, waves=waves))


def code_of(eligibility: Eligibility) -> str | None:
    return None if eligibility.refusal is None else eligibility.refusal.code


def first_no(result: Eligibility) -> str:
    assert not result.eligible
    refusal = result.refusal
    assert refusal is not None
    assert refusal.because
    return refusal.name


def test_an_approved_release_that_fits_is_eligible() -> None:
    assert evaluate(FACTS, CURRENT, NOON).eligible


def test_every_answer_carries_its_evidence() -> None:
    assert all(check.because for check in evaluate(FACTS, CURRENT, NOON).checks)


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"enrolment_number": 0}, "enrolled"),
        ({"trust_fresh": False}, "trust_fresh"),
        ({"clock_trusted": False}, "trust_fresh"),
        ({"failed": {DIGEST: 0}}, "not_failed_here"),
        ({"hardware_class": "other"}, "class_matches"),
        ({"runtime_version": "1.17.0"}, "runtime"),
        ({"runtime_version": "nonsense"}, "runtime"),
        ({"providers": frozenset({"CUDAExecutionProvider"})}, "runtime"),
        ({"memory_budget_bytes": 1000}, "memory"),
        ({"disk_free_bytes": 1000}, "disk"),
        ({"security_versions": {MODEL: 1}}, "no_downgrade"),
    ],
)
def test_one_no_is_enough(change: dict[str, object], check: str) -> None:
    assert first_no(evaluate(replace(FACTS, **change), CURRENT, NOON)) == check  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("allowed", "check"),
    [
        (ClassBudgets(memory_bytes=1000), "memory"),
        (ClassBudgets(model_bytes_max=3), "disk"),
    ],
)
def test_the_class_may_allow_less_than_the_device_gives(allowed: ClassBudgets, check: str) -> None:
    verdict = evaluate(replace(FACTS, class_budgets=allowed), CURRENT, NOON)

    assert first_no(verdict) == check
    assert "class" in str(verdict.refusal)


def test_a_class_never_adds_to_what_a_device_gives() -> None:
    generous = ClassBudgets(memory_bytes=1 << 40, model_bytes_max=1 << 40)
    small = replace(FACTS, memory_budget_bytes=1000, class_budgets=generous)

    assert first_no(evaluate(small, CURRENT, NOON)) == "memory"


def test_files_already_held_are_not_too_large_for_the_class() -> None:
    held = replace(
        FACTS, class_budgets=ClassBudgets(model_bytes_max=3), held_files=frozenset({"ab" * 32})
    )

    assert evaluate(held, CURRENT, NOON).eligible


def test_a_release_that_failed_here_is_offered_again_in_a_later_retry_epoch() -> None:
    failed = replace(FACTS, failed={DIGEST: 1})

    assert first_no(evaluate(failed, replace(CURRENT, retry_epoch=1), NOON)) == "not_failed_here"
    assert evaluate(failed, replace(CURRENT, retry_epoch=2), NOON).eligible


def test_files_already_held_need_no_disk() -> None:
    held = replace(FACTS, disk_free_bytes=0, held_files=frozenset({"ab" * 32}))

    assert evaluate(held, CURRENT, NOON).eligible


@pytest.mark.parametrize(
    "standing",
    [
        replace(STANDING, released_digest=None),
        replace(STANDING, approved_digest=None),
        replace(STANDING, approved_digest="0" * 64),
        replace(STANDING, released_digest="0" * 64),
    ],
)
def test_both_roles_must_list_the_same_digest(standing: Standing) -> None:
    verdict = evaluate(FACTS, replace(CURRENT, standing=standing), NOON)
    assert first_no(verdict) == "approved"
    assert code_of(verdict) in ("E-NOT-RELEASED", "E-NOT-APPROVED", "E-APPROVED-OTHER")


def test_a_pilot_is_in_and_the_others_wait() -> None:
    assert evaluate(FACTS, offered(PILOT_WAVE), NOON).eligible
    other = replace(FACTS, device="dev-2")
    assert first_no(evaluate(other, offered(PILOT_WAVE), NOON)) == "in_cohort"


def test_the_next_wave_lets_the_others_in() -> None:
    other = replace(FACTS, device="dev-2")

    assert evaluate(other, offered(PILOT_WAVE, ALL_WAVE), NOON).eligible


def test_a_paused_offer_starts_nothing() -> None:
    assert first_no(evaluate(FACTS, offered(PILOT_WAVE, paused=True), NOON)) == "in_cohort"


def test_a_device_that_a_wave_leaves_out_by_name_waits_for_the_next() -> None:
    left_out = ALL_WAVE.model_copy(update={"absent": ("dev-2",)})
    away = replace(FACTS, device="dev-2")

    assert first_no(evaluate(away, offered(PILOT_WAVE, left_out), NOON)) == "in_cohort"
    assert evaluate(replace(FACTS, device="dev-3"), offered(PILOT_WAVE, left_out), NOON).eligible


def test_a_device_enrolled_after_the_wave_opened_waits_for_the_next() -> None:
    late = replace(FACTS, device="dev-2", enrolment_number=10)

    assert first_no(evaluate(late, offered(PILOT_WAVE, ALL_WAVE), NOON)) == "in_cohort"


def test_a_controller_cannot_name_pilots_nobody_approved() -> None:
    forged = OfferWave(upto="", roster=9, pilots=("dev-1", "dev-2"))

    assert code_of(evaluate(FACTS, offered(forged), NOON)) == "E-PLAN-PILOTS"


def test_a_controller_cannot_open_a_wave_wider_than_approved() -> None:
    wide = OfferWave(upto="00000000000000ff", roster=9, pilots=("dev-1",))

    assert code_of(evaluate(FACTS, offered(wide), NOON)) == "E-PLAN-WIDENED"


def test_a_controller_cannot_add_waves() -> None:
    assert code_of(evaluate(FACTS, offered(PILOT_WAVE, ALL_WAVE, ALL_WAVE), NOON)) == "E-PLAN-WAVES"


def test_a_controller_cannot_leave_a_wave_out() -> None:
    left_out = OfferWave(upto="", roster=0)
    missed = OfferWave(upto="", roster=1)  # opened before the class joined the plan

    assert code_of(evaluate(FACTS, offered(left_out, ALL_WAVE), NOON)) == "E-PLAN-SKIPPED"
    assert evaluate(FACTS, offered(missed, ALL_WAVE), NOON).eligible


def test_a_controller_cannot_hurry_a_wave_by_calling_the_release_current() -> None:
    noon = int(NOON.timestamp())
    waves = (PLAN.waves[0], PLAN.waves[1].model_copy(update={"earliest": noon + 60}))
    hurried = with_plan(PLAN.model_copy(update={"waves": waves}), CURRENT)
    other = replace(FACTS, device="dev-2")

    assert evaluate(FACTS, hurried, NOON).eligible  # a pilot of the first wave
    assert first_no(evaluate(other, hurried, NOON)) == "in_cohort"
    assert evaluate(other, hurried, NOON + timedelta(minutes=1)).eligible
    none = tuple(wave.model_copy(update={"earliest": noon + 60}) for wave in PLAN.waves)
    early = with_plan(PLAN.model_copy(update={"waves": none}), CURRENT)
    assert code_of(evaluate(FACTS, early, NOON)) == "E-PLAN-EARLY"


def test_a_controller_cannot_finish_an_expired_plan_by_calling_the_release_current() -> None:
    expired = PLAN.model_copy(update={"expires": int(NOON.timestamp())})

    assert code_of(evaluate(FACTS, with_plan(expired, CURRENT), NOON)) == "E-PLAN-EXPIRED"


def with_plan(plan: Plan, candidate: Candidate) -> Candidate:
    return replace(candidate, standing=replace(STANDING, plan=plan))


def test_a_wave_is_refused_before_its_approved_hour() -> None:
    later = PLAN.waves[0].model_copy(update={"earliest": int(NOON.timestamp()) + 60})
    early = with_plan(PLAN.model_copy(update={"waves": (later,)}), offered(PILOT_WAVE))

    assert code_of(evaluate(FACTS, early, NOON)) == "E-PLAN-EARLY"


def test_an_expired_plan_starts_nothing() -> None:
    expired = PLAN.model_copy(update={"expires": int(NOON.timestamp())})

    assert (
        code_of(evaluate(FACTS, with_plan(expired, offered(PILOT_WAVE)), NOON)) == "E-PLAN-EXPIRED"
    )


def test_a_ring_admits_by_label() -> None:
    ring = PLAN.waves[1].model_copy(update={"ring": {"floor": "two"}})
    plan = PLAN.model_copy(update={"waves": (ring,)})
    upstairs = replace(FACTS, labels={"floor": "two"})

    assert evaluate(upstairs, with_plan(plan, offered(ALL_WAVE)), NOON).eligible
    assert first_no(evaluate(FACTS, with_plan(plan, offered(ALL_WAVE)), NOON)) == "in_cohort"


def test_a_completed_release_reaches_only_whom_the_plan_ever_lets_in() -> None:
    pilots_only = PLAN.model_copy(update={"waves": PLAN.waves[:1]})
    other = replace(FACTS, device="dev-2")

    assert evaluate(FACTS, with_plan(pilots_only, CURRENT), NOON).eligible
    assert first_no(evaluate(other, with_plan(pilots_only, CURRENT), NOON)) == "in_cohort"


def test_a_plan_for_other_classes_covers_nothing_here() -> None:
    elsewhere = PLAN.model_copy(update={"hardware_classes": ("gateway",)})

    assert code_of(evaluate(FACTS, with_plan(elsewhere, CURRENT), NOON)) == "E-PLAN-CLASS"
