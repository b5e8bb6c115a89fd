"""What counts for an attempt, and what was before it."""

from datetime import UTC, datetime

from mailboat_agent.probation import Probation
from mailboat_agent.serving.feedback import Posted
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
    probation.ended_trial(passed=True)
    probation.ended_shadow(Judgement(Verdict.PASSED, "alike", evidence={"agreed": 9}))
    assert probation.shadow_over
    assert probation.shadow_evidence == {"shadow": {"because": "alike", "agreed": 9}}

    probation.begin()

    assert not probation.shadow_over
    assert probation.shadow_evidence == {}
