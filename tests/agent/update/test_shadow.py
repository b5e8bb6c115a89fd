"""Does a candidate answer as what serves does, and as fast?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailboat_agent.update.shadow import ShadowStats, judge_shadow
from mailboat_agent.update.soak import Verdict
from mailboat_schemas.documents.live_gates import Shadow, WhenUnproven
from mailboat_schemas.live_figures import ShadowSum

HUNDRED = Shadow(requests_min=100, seconds_max=600, agreement_min=0.99, latency_ratio_max=1.5)


def mirrored(
    agreed: int = 0, differed: int = 0, failed: int = 0, ours: float = 10, theirs: float = 10
) -> ShadowStats:
    return ShadowStats(
        counts=ShadowSum(agreed=agreed, differed=differed, failed=failed),
        candidate_p95_ms=ours,
        live_p95_ms=theirs,
        differences=("output 'y': off by 2",) if differed else (),
    )


def test_answers_alike_pass_as_soon_as_enough_were_compared() -> None:
    judgement = judge_shadow(HUNDRED, mirrored(agreed=100), 1)

    assert judgement.verdict is Verdict.PASSED
    assert judgement.because == "100 of 100 mirrored requests were answered alike"
    assert judgement.evidence["agreed"] == 100


def test_exactly_at_each_bound_holds() -> None:
    at_bound = mirrored(agreed=99, differed=1, ours=15, theirs=10)

    assert judge_shadow(HUNDRED, at_bound, 1).verdict is Verdict.PASSED


@pytest.mark.parametrize("tenths", range(1, 10))
def test_a_share_that_no_float_is_holds_when_it_is_met_exactly(tenths: int) -> None:
    shadow = Shadow(requests_min=10, agreement_min=tenths / 10)

    met = mirrored(agreed=tenths, differed=10 - tenths)
    missed = mirrored(agreed=tenths - 1, differed=11 - tenths)

    assert judge_shadow(shadow, met, 1).verdict is Verdict.PASSED
    assert judge_shadow(shadow, missed, 1).verdict is Verdict.FAILED


def test_too_many_differences_fail_with_the_first_of_them() -> None:
    judgement = judge_shadow(HUNDRED, mirrored(agreed=98, differed=2), 1)

    assert (judgement.verdict, judgement.code) == (Verdict.FAILED, "shadow_disagreement")
    assert judgement.because.endswith("99.0% of 100 must be; first output 'y': off by 2")
    assert judgement.evidence["differences"] == ["output 'y': off by 2"]


def test_a_request_that_only_the_candidate_cannot_answer_is_no_agreement() -> None:
    judgement = judge_shadow(HUNDRED, mirrored(agreed=98, failed=2), 1)

    assert judgement.code == "shadow_disagreement"


def test_it_fails_early_when_nothing_to_come_could_make_up_for_it() -> None:
    assert judge_shadow(HUNDRED, mirrored(agreed=3, differed=1), 1).verdict is Verdict.WAIT
    assert judge_shadow(HUNDRED, mirrored(agreed=3, differed=2), 1).verdict is Verdict.FAILED


def test_a_slower_candidate_fails() -> None:
    judgement = judge_shadow(HUNDRED, mirrored(agreed=100, ours=15.1, theirs=10), 1)

    assert (judgement.verdict, judgement.code) == (Verdict.FAILED, "shadow_latency")
    assert "1.51 times the 10.0 ms of what serves; 1.5 times are allowed" in judgement.because


def test_a_latency_that_could_not_be_measured_does_not_pass() -> None:
    stats = ShadowStats(counts=ShadowSum(agreed=100))

    assert judge_shadow(HUNDRED, stats, 1).code == "shadow_latency"


def test_a_candidate_that_dies_fails_at_once() -> None:
    stats = ShadowStats(counts=ShadowSum(agreed=5), worker_deaths=1)

    assert judge_shadow(HUNDRED, stats, 1).code == "crashed"


def test_without_load_it_waits_and_then_the_document_decides() -> None:
    strict = HUNDRED.model_copy(update={"when_unproven": WhenUnproven.FAIL})
    quiet = mirrored(agreed=7)

    assert judge_shadow(HUNDRED, quiet, 599.9).verdict is Verdict.WAIT
    passed, failed = judge_shadow(HUNDRED, quiet, 600), judge_shadow(strict, quiet, 600)

    assert passed.verdict is Verdict.PASSED
    assert passed.because == (
        "not shadowed: 600 s have passed; 7 of 100 live requests were compared; "
        "its document lets it pass"
    )
    assert passed.evidence["not_shadowed"] == "600 s have passed"
    assert (failed.verdict, failed.code) == (Verdict.FAILED, "not_shadowed")


def test_what_cannot_be_shadowed_is_said_at_once() -> None:
    judgement = judge_shadow(HUNDRED, ShadowStats(impossible="the machine's memory is short"), 0)

    assert judgement.evidence["not_shadowed"] == "the machine's memory is short"


@given(
    agreed=st.integers(0, 200),
    differed=st.integers(0, 200),
    failed=st.integers(0, 200),
    elapsed=st.floats(0, 1200),
    strict=st.booleans(),
)
def test_it_passes_only_with_agreement_or_by_saying_that_it_was_not_shadowed(
    agreed: int, differed: int, failed: int, elapsed: float, strict: bool
) -> None:
    unproven = WhenUnproven.FAIL if strict else WhenUnproven.PASS
    shadow = HUNDRED.model_copy(update={"when_unproven": unproven})

    judgement = judge_shadow(shadow, mirrored(agreed, differed, failed), elapsed)

    compared = agreed + differed + failed
    if judgement.verdict is Verdict.PASSED:
        proven = compared >= 100 and agreed / compared >= 0.99
        assert proven or (not strict and "not_shadowed" in judgement.evidence)
    assert bool(judgement.code) == (judgement.verdict is Verdict.FAILED)
    if elapsed >= 600 or compared >= 100:
        assert judgement.verdict is not Verdict.WAIT
