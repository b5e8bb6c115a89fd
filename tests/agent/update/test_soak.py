"""Does a release hold on live traffic?"""

from dataclasses import replace

import pytest

from mailboat_agent.update.soak import SoakStats, Verdict, judge_soak
from mailboat_schemas.documents.health import Soak
from mailboat_schemas.documents.live_gates import DriftGate
from mailboat_schemas.live_figures import CounterSum, Shift, ValueSum


def served(
    ok: int = 0,
    error: int = 0,
    p95_ms: float | None = None,
    restarts: int = 0,
    ready: bool = True,
) -> SoakStats:
    return SoakStats(
        requests_ok=ok,
        requests_error=error,
        p95_ms=p95_ms,
        worker_restarts=restarts,
        ready=ready,
    )


HUNDRED_SECONDS = Soak(seconds=100, error_rate_max=0.01, latency_p95_ms_max=50)


def test_a_soak_is_not_over_before_its_time() -> None:
    judgement = judge_soak(HUNDRED_SECONDS, served(ok=1000, p95_ms=10), 99.9)

    assert judgement.verdict is Verdict.WAIT


def test_clean_traffic_for_the_whole_time_passes() -> None:
    judgement = judge_soak(HUNDRED_SECONDS, served(ok=1000, p95_ms=10), 100)

    assert judgement.verdict is Verdict.PASSED
    assert judgement.because == "1000 of 1000 requests were answered in 100 s of soak"


def test_silence_waits_when_requests_are_asked_for() -> None:
    soak = Soak(seconds=10, requests_min=50)

    judgement = judge_soak(soak, served(ok=49), 86_400)

    assert judgement.verdict is Verdict.WAIT
    assert judgement.because == "49 of at least 50 requests were served"


def test_errors_over_the_rate_fail_as_soon_as_there_is_evidence() -> None:
    judgement = judge_soak(HUNDRED_SECONDS, served(ok=19, error=1), 1)

    assert judgement.verdict is Verdict.FAILED
    assert judgement.code == "error_rate"
    assert "1 of 20 requests failed (5.0%, allowed 1.0%)" in judgement.because


def test_one_error_among_few_requests_is_no_evidence_yet() -> None:
    assert judge_soak(HUNDRED_SECONDS, served(ok=18, error=1), 1).verdict is Verdict.WAIT


def test_few_requests_are_evidence_once_the_soak_is_over() -> None:
    assert judge_soak(HUNDRED_SECONDS, served(ok=1, error=1), 100).verdict is Verdict.FAILED


def test_the_allowed_error_rate_itself_is_allowed() -> None:
    assert judge_soak(HUNDRED_SECONDS, served(ok=99, error=1), 100).verdict is Verdict.PASSED


def test_slow_answers_fail() -> None:
    judgement = judge_soak(HUNDRED_SECONDS, served(ok=20, p95_ms=50.1), 1)

    assert (judgement.verdict, judgement.code) == (Verdict.FAILED, "latency_exceeded")


@pytest.mark.parametrize(("restarts", "verdict"), [(1, Verdict.WAIT), (2, Verdict.FAILED)])
def test_a_worker_may_die_once_but_not_twice(restarts: int, verdict: Verdict) -> None:
    assert judge_soak(HUNDRED_SECONDS, served(restarts=restarts), 1).verdict is verdict


def test_a_soak_of_no_time_and_no_requests_passes_at_once() -> None:
    assert judge_soak(Soak(seconds=0), served(), 0).verdict is Verdict.PASSED


def test_a_soak_does_not_end_well_while_the_worker_is_down() -> None:
    judgement = judge_soak(HUNDRED_SECONDS, served(ok=1000, restarts=1, ready=False), 200)

    assert judgement.verdict is Verdict.WAIT
    assert judgement.because == "its worker process is being started again"


COUNTED = Soak.model_validate(
    {
        "seconds": 100,
        "counters": {
            "accuracy": {"good_rate_min": 0.9, "total_min": 20},
            "order_eur": {"mean_min": 10, "mean_max": 30, "total_min": 2},
        },
    }
)


def posted(good: int = 0, total: int = 0, values: tuple[float, ...] = ()) -> SoakStats:
    return SoakStats(
        requests_ok=1000,
        requests_error=0,
        p95_ms=10,
        worker_restarts=0,
        counters={"accuracy": CounterSum(good=good, total=total)},
        values={"order_eur": ValueSum(count=len(values), sum=sum(values))},
    )


def test_a_posted_counter_below_its_bound_fails_at_once() -> None:
    judgement = judge_soak(COUNTED, posted(good=17, total=20), 1)

    assert (judgement.verdict, judgement.code) == (Verdict.FAILED, "counter_breach")
    assert judgement.because == "accuracy is 0.85 over 20 posted, at least 0.9 is asked for"
    assert judgement.evidence["posted"]["accuracy"] == {"good": 17, "total": 20}


def test_a_posted_counter_exactly_at_its_bound_holds() -> None:
    assert judge_soak(COUNTED, posted(good=18, total=20), 100).verdict is Verdict.PASSED


def test_a_few_posts_are_no_evidence() -> None:
    assert judge_soak(COUNTED, posted(good=0, total=19), 100).verdict is Verdict.PASSED


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((9.9, 10.0), Verdict.FAILED),
        ((10.0, 10.0), Verdict.PASSED),
        ((30.0, 30.0), Verdict.PASSED),
        ((30.0, 31.0), Verdict.FAILED),
    ],
)
def test_the_mean_of_posted_values_has_bounds(values: tuple[float, ...], verdict: Verdict) -> None:
    assert judge_soak(COUNTED, posted(values=values), 100).verdict is verdict


def test_a_required_counter_is_waited_for() -> None:
    soak = Soak.model_validate(
        {"seconds": 1, "counters": {"accuracy": {"good_rate_min": 0.9, "required": True}}}
    )

    judgement = judge_soak(soak, posted(good=19, total=19), 86_400)

    assert judgement.verdict is Verdict.WAIT
    assert judgement.because == "19 of at least 20 accuracy posted"


def test_a_shift_beyond_its_bound_fails() -> None:
    soak = Soak.model_validate({"seconds": 100, "drift": {"inputs_max": 0.5, "requests_min": 10}})

    def shifted(side: str, shift: float, requests: int = 10) -> Verdict:
        seen = Shift.model_validate(
            {"tensor": "x", "side": side, "requests": requests, "shift": shift}
        )
        stats = SoakStats(
            requests_ok=9, requests_error=0, p95_ms=1, worker_restarts=0, shifts=(seen,)
        )
        return judge_soak(soak, stats, 1).verdict

    assert shifted("input", 0.5) is Verdict.WAIT
    assert shifted("input", 0.51) is Verdict.FAILED
    assert shifted("output", 0.26) is Verdict.FAILED  # 0.25 unless the document says otherwise
    assert shifted("output", 0.26, requests=9) is Verdict.WAIT


def test_a_release_that_stops_answering_late_in_a_long_soak_fails_at_once() -> None:
    def late(errors: int) -> Verdict:
        stats = SoakStats(
            requests_ok=10**6,
            requests_error=errors,
            p95_ms=1,
            worker_restarts=0,
            errors_in_a_row=errors,
        )
        return judge_soak(HUNDRED_SECONDS, stats, 99).verdict

    assert late(19) is Verdict.WAIT  # fewer than `breach_requests_min`
    assert late(20) is Verdict.FAILED


def test_a_gate_that_nothing_came_through_is_named_by_the_verdict() -> None:
    soak = COUNTED.model_copy(update={"drift": DriftGate(inputs_max=1, requests_min=10)})
    seen = Shift(tensor="x", side="input", requests=10, shift=0)
    stats = replace(posted(good=20, total=20), shifts=(seen,))

    judgement = judge_soak(soak, stats, 100)

    assert judgement.verdict is Verdict.PASSED
    assert judgement.evidence["not_judged"] == ["order_eur", "drift of outputs"]
    assert judgement.because.endswith("too little was seen to judge order_eur, drift of outputs")
