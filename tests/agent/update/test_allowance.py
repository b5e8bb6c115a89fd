"""What others provoke is told in a burst, and then now and then."""

from mailboat_agent.update.allowance import Allowance


def test_a_burst_is_let_through_and_the_rest_is_counted() -> None:
    allowance = Allowance(burst=3, seconds_each=60)

    assert [allowance.take(0.0) for _ in range(5)] == [True, True, True, False, False]
    assert allowance.withheld == 2


def test_one_more_is_let_through_after_each_interval_and_never_more_than_a_burst() -> None:
    allowance = Allowance(burst=3, seconds_each=60)
    for _ in range(3):
        allowance.take(0.0)

    assert not allowance.take(59.0)
    assert allowance.take(60.5)
    assert not allowance.take(61.0)
    assert [allowance.take(1e9) for _ in range(4)] == [True, True, True, False]


def test_a_clock_that_jumps_back_gives_nothing() -> None:
    allowance = Allowance(burst=1, seconds_each=60)
    assert allowance.take(1e9)

    assert not allowance.take(0.0)
    assert not allowance.take(59.0)
    assert allowance.take(60.0)
