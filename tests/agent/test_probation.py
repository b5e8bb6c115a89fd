"""What counts for an attempt, and what was before it."""

from datetime import UTC, datetime

from mailboat_agent.probation import Probation
from mailboat_agent.serving.feedback import Posted
from mailboat_agent.serving.trial import TrialReport
from mailboat_agent.serving.window import ServingStats
from mailboat_agent.update.soak import Judgement, Verdict
from mailboat_schemas.documents.health import Soak
from mailboat_schemas.live_figures import CounterSum

COUNTED = Soak.model_validate(
    {"seconds": 100, "counters": {"accuracy": {"good_rate_min": 0.9, "total_min": 10}}}
)
SERVES = ServingStats(
    model="m",
    version="1.0.0",
    digest="a" * 64,
    serial=1,
    began_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
    requests_ok=5,
    requests_error=0,
    requests_refused=0,
    worker_restarts=0,
    latency_p50_ms=1,
    latency_p95_ms=1,
    last_ok_at=None,
    peak_memory_bytes=1,
    ready=True,
)


TRIED = TrialReport(
    cold_start_ms=400,
    latency_p50_ms=1,
    latency_p95_ms=2,
    latency_p99_ms=3,
    throughput_per_second=700,
    inferences=32,
    samples=1,
    largest_difference=0,
    peak_memory_bytes=1 << 26,
    provider="CPUExecutionProvider",
    runtime_version="1.31",
)


def posted(good: int, total: int) -> Posted:
    return Posted("1.0.0", {"accuracy": CounterSum(good=good, total=total)})


def test_what_was_said_of_the_release_in_an_earlier_stay_does_not_count() -> None:
    probation = Probation()
    probation.begin(posted(0, 100))

    first = probation.judge(COUNTED, SERVES, 5, posted=posted(9, 109))
    second = probation.judge(COUNTED, SERVES, 5, posted=posted(9, 110))
    third = probation.judge(COUNTED, SERVES, 5, posted=posted(8, 110))

    assert (first.verdict, second.verdict) == (Verdict.WAIT, Verdict.WAIT)
    assert (third.verdict, third.code) == (Verdict.FAILED, "counter_breach")


def test_a_soak_counts_from_its_first_look_whatever_clock_it_is() -> None:
    probation = Probation()
    probation.begin()

    assert probation.judge(COUNTED, SERVES, 1_000_000).verdict is Verdict.WAIT
    assert probation.judge(COUNTED, SERVES, 1_000_099.9).verdict is Verdict.WAIT
    assert probation.judge(COUNTED, SERVES, 1_000_100).verdict is Verdict.PASSED


def test_another_attempt_is_shadowed_anew() -> None:
    probation = Probation()
    probation.begin()
    probation.ended_trial(TRIED)
    probation.ended_shadow(Judgement(Verdict.PASSED, "alike", evidence={"agreed": 9}))
    assert probation.shadow_over
    assert probation.evidence["shadow"] == {"because": "alike", "agreed": 9}
    assert probation.evidence["trial"]["provider"] == "CPUExecutionProvider"

    probation.begin()

    assert not probation.shadow_over
    assert "shadow" not in probation.evidence


def test_what_was_forgotten_is_not_told() -> None:
    probation = Probation()
    probation.ended_trial(TRIED)
    assert probation.trial_passed

    probation.forget()

    assert not probation.trial_passed
    assert probation.evidence == {}


def test_a_trial_that_failed_has_no_figures() -> None:
    probation = Probation()
    probation.ended_trial(None)

    assert not probation.trial_passed
    assert probation.evidence == {}
