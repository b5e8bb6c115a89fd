"""Live answers come first: when does what runs beside them pause?"""

from hypothesis import given
from hypothesis import strategies as st

from mailboat_agent.serving.live_guard import (
    LATENCIES_MIN,
    PAUSE_SECONDS,
    PAUSE_SECONDS_MAX,
    LiveGuard,
)


def guard(before_p95_ms: float | None = 10) -> LiveGuard:
    return LiveGuard(before_p95_ms=before_p95_ms, ratio_max=1.25)


def answers(guard: LiveGuard, latency_ms: float, *, at: float, count: int = 30) -> None:
    for _ in range(count):
        guard.saw(latency_ms, at)


def test_nothing_is_mirrored_before_it_is_known_what_is_usual() -> None:
    fresh = guard(before_p95_ms=None)
    answers(fresh, 10, at=0, count=LATENCIES_MIN - 1)
    assert not fresh.allows(0)

    answers(fresh, 10, at=0, count=1)

    assert fresh.allows(0)


def test_live_answers_at_the_bound_go_on_and_slower_ones_pause_it() -> None:
    at_bound, slower = guard(), guard()
    answers(at_bound, 13.5, at=1)  # 1.25 * 10 ms, and a millisecond of slack
    answers(slower, 13.6, at=1)

    assert at_bound.allows(1)
    assert not slower.allows(1)
    assert slower.pauses == 1


def test_after_a_pause_it_is_measured_anew_and_the_next_is_twice_as_long() -> None:
    slow = guard()
    answers(slow, 50, at=0)
    assert not slow.allows(PAUSE_SECONDS - 0.1)
    assert slow.allows(PAUSE_SECONDS)

    answers(slow, 50, at=PAUSE_SECONDS)

    assert not slow.allows(2.9 * PAUSE_SECONDS)
    assert slow.allows(3 * PAUSE_SECONDS)
    assert slow.pauses == 2


def test_a_single_slow_answer_is_no_reason() -> None:
    calm = guard()
    answers(calm, 10, at=0, count=50)
    answers(calm, 500, at=0, count=1)
    answers(calm, 10, at=0, count=49)

    assert calm.allows(0)


@given(st.lists(st.floats(0, 1e6), max_size=500))
def test_a_pause_always_ends(latencies_ms: list[float]) -> None:
    any_guard = guard()
    for number, latency_ms in enumerate(latencies_ms):
        any_guard.saw(latency_ms, number / 10)

    assert any_guard.allows(len(latencies_ms) / 10 + PAUSE_SECONDS_MAX)
