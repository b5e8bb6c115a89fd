"""Does a release hold on live traffic?"""

import pytest

from mailboat_agent.update.soak import SoakStats, Verdict, judge_soak
from mailboat_schemas.documents.health import Soak


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
