from itertools import product
from random import Random

import pytest

from mailboat_agent.degraded.breaker import (
    FAILURES_MAX,
    PROBE_SECONDS_MAX,
    PROBE_SECONDS_MIN,
    TRANSITIONS,
    Breaker,
    ImpossibleMove,
    State,
    Trigger,
    advance,
    answered,
    asked,
    failed,
    given_up,
    may_ask,
)


def opened(now: float = 100.0, times: int = 1) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES_MAX):
        breaker = failed(breaker, now, Random(1))
    for _ in range(times - 1):
        breaker = failed(asked(breaker), now, Random(1))
    return breaker


def test_a_pair_that_is_not_in_the_table_is_refused() -> None:
    refused = set(product(State, Trigger)) - TRANSITIONS.keys()

    assert (State.HALF_OPEN, Trigger.PROBE) in refused
    for state, trigger in refused:
        with pytest.raises(ImpossibleMove):
            advance(state, trigger)


def test_one_lost_request_leaves_an_endpoint_in_use() -> None:
    breaker = failed(Breaker(), 100.0, Random(1))

    assert breaker.state is State.CLOSED
    assert may_ask(breaker, 100.0)


def test_it_is_left_alone_after_failures_in_a_row_and_an_answer_in_between_counts() -> None:
    breaker = Breaker()
    for _ in range(FAILURES_MAX - 1):
        breaker = failed(breaker, 100.0, Random(1))
    breaker = answered(breaker)
    for _ in range(FAILURES_MAX - 1):
        breaker = failed(breaker, 100.0, Random(1))
    assert breaker.state is State.CLOSED

    breaker = failed(breaker, 100.0, Random(1))

    assert breaker.state is State.OPEN
    assert not may_ask(breaker, 100.0)


def test_one_probe_at_a_time_and_its_answer_closes_it() -> None:
    breaker = opened(now=100.0)
    assert may_ask(breaker, breaker.probe_at)

    probing = asked(breaker)

    assert probing.state is State.HALF_OPEN
    assert not may_ask(probing, 1e9)
    assert answered(probing) == Breaker()


def test_the_wait_between_probes_doubles_up_to_a_bound_and_has_jitter() -> None:
    waits = [opened(now=100.0, times=n).probe_at - 100.0 for n in (1, 2, 3, 20)]

    assert PROBE_SECONDS_MIN / 2 <= waits[0] <= PROBE_SECONDS_MIN
    assert waits[0] < waits[1] < waits[2]
    assert PROBE_SECONDS_MAX / 2 <= waits[3] <= PROBE_SECONDS_MAX
    others = {failed(asked(opened()), 100.0, Random(seed)).probe_at for seed in range(5)}
    assert len(others) == 5


def test_a_late_answer_of_before_does_not_close_what_has_opened() -> None:
    assert answered(opened()).state is State.OPEN


def test_a_failure_of_before_does_not_put_the_probe_off() -> None:
    breaker = opened(now=100.0)

    assert failed(breaker, 500.0, Random(1)).probe_at == breaker.probe_at


def test_a_caller_without_time_says_nothing_of_the_endpoint() -> None:
    assert given_up(Breaker(), 100.0, Random(1)) == Breaker()
    probing = asked(opened(now=100.0))

    after = given_up(probing, 200.0, Random(1))

    assert after.state is State.OPEN
    assert 200.0 < after.probe_at <= 200.0 + PROBE_SECONDS_MIN
    assert after.openings_in_a_row == probing.openings_in_a_row
