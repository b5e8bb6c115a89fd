"""Token buckets: a burst, then a rate, and no more of them than is said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailboat_controller.access.rate_limits import Buckets


def test_a_burst_passes_and_then_one_every_so_often() -> None:
    buckets = Buckets(per_second=2, burst=3)

    assert [buckets.take("a", 0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert buckets.take("a", 0.5) == 0.0
    assert buckets.take("a", 0.5) == 0.5


def test_whoever_waits_as_told_passes() -> None:
    buckets = Buckets(per_second=0.1, burst=1)
    buckets.take("a", 100.0)

    wait_seconds = buckets.take("a", 103.0)

    assert wait_seconds == pytest.approx(7)
    assert buckets.take("a", 103.0 + wait_seconds) == 0.0


def test_asking_in_vain_costs_nothing() -> None:
    buckets = Buckets(per_second=1, burst=1)
    buckets.take("a", 0.0)

    assert all(buckets.take("a", 0.5) == 0.5 for _ in range(100))
    assert buckets.take("a", 1.0) == 0.0


def test_each_has_a_bucket_of_their_own() -> None:
    buckets = Buckets(per_second=1, burst=1)
    buckets.take("a", 0.0)

    assert buckets.take("b", 0.0) == 0.0


def test_the_one_that_was_idle_longest_is_forgotten_when_there_are_too_many() -> None:
    buckets = Buckets(per_second=0.001, burst=1, buckets_max=3)
    for second, key in enumerate(["a", "b", "c", "a", "d"]):
        buckets.take(key, float(second))

    assert len(buckets) == 3
    assert buckets.take("b", 5.0) == 0.0  # forgotten, so full again
    assert buckets.take("a", 5.0) > 0


@given(st.lists(st.floats(0, 5), max_size=60), st.floats(0.1, 50), st.integers(1, 20))
def test_never_more_pass_than_burst_and_rate_allow(
    pauses: list[float], per_second: float, burst: int
) -> None:
    buckets = Buckets(per_second=per_second, burst=burst)
    now, passed = 0.0, 0
    for pause in pauses:
        now += pause
        passed += buckets.take("a", now) == 0.0

    assert passed <= burst + per_second * now + 1e-6
