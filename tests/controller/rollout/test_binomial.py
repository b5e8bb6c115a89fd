"""Bounds from counts, beside exact fractions and the published tables."""

from fractions import Fraction
from math import comb
from random import Random

import pytest

from mailboat_controller.rollout import binomial


def exactly_at_most(count: int, trials: int, share: float) -> float:
    p = Fraction(share)
    terms = (comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(count + 1))
    return float(sum(terms))


def test_a_tail_is_what_exact_fractions_say() -> None:
    rng = Random(7)
    for _ in range(60):
        trials = rng.randint(1, 220)
        count, share = rng.randint(0, trials), rng.choice([0.001, 0.01, 0.1, 0.3, 0.5, 0.9])

        found = binomial.at_most(count, trials, share)

        assert found == pytest.approx(exactly_at_most(count, trials, share), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize(
    ("share", "at_99", "at_95"),
    [
        (0.05, (90, 130, 165, 198, 259), (59, 93, 124, 153, 208)),
        (0.10, (44, 64, 81, 97, 127), (29, 46, 61, 76, 103)),
        (0.20, (21, 31, 39, 47, 62), (14, 22, 30, 37, 50)),
        (0.30, (13, 20, 25, 30, 40), (9, 14, 19, 24, 33)),
    ],
)
def test_so_many_clean_canaries_exclude_a_share(
    share: float, at_99: tuple[int, ...], at_95: tuple[int, ...]
) -> None:
    tolerated = (0, 1, 2, 3, 5)

    assert tuple(binomial.trials_needed(c, share, 0.01) for c in tolerated) == at_99
    assert tuple(binomial.trials_needed(c, share, 0.05) for c in tolerated) == at_95


@pytest.mark.parametrize(
    ("devices", "percent"), [(5, 60.2), (10, 36.9), (20, 20.6), (30, 14.2), (50, 8.8)]
)
def test_a_small_wave_excludes_little(devices: int, percent: float) -> None:
    share = binomial.smallest_share_excluded(devices, 0.01)

    assert 100 * share == pytest.approx(percent, abs=0.05)
    assert binomial.excludes(0, devices, share + 1e-9, 0.01)
    assert not binomial.excludes(0, devices, share - 1e-9, 0.01)


def test_the_bounds_of_clopper_and_pearson_for_four_of_two_hundred() -> None:
    # Their 95 % interval, two-sided: 0.547 % to 5.041 %.
    assert binomial.upper_bound(4, 200, 0.025) == pytest.approx(0.0504, abs=1e-4)
    assert binomial.lower_bound(4, 200, 0.025) == pytest.approx(0.00548, abs=1e-5)


def test_bound_and_question_agree_up_to_a_million_trials() -> None:
    for trials in (1, 44, 200, 10_000, 1_000_000):
        most = binomial.failures_allowed(trials, 0.1, 0.005)
        if most < 0:
            assert binomial.upper_bound(0, trials, 0.005) > 0.1
            continue
        assert binomial.upper_bound(most, trials, 0.005) <= 0.1 + 1e-12
        assert binomial.upper_bound(most + 1, trials, 0.005) > 0.1


def test_a_tail_that_is_not_found_in_time_excludes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert binomial.excludes(0, 200, 0.1, 0.01)
    monkeypatch.setattr(binomial, "_STEPS_MAX", 1)

    assert not binomial.excludes(0, 200, 0.1, 0.01)
    assert binomial.upper_bound(0, 200, 0.01) == pytest.approx(1.0)
    assert binomial.lower_bound(150, 200, 0.01) == pytest.approx(0.0)


def test_nothing_is_excluded_by_nothing() -> None:
    assert not binomial.excludes(0, 0, 0.1, 0.01)
    assert not binomial.excludes(5, 5, 0.1, 0.01)
    assert binomial.smallest_share_excluded(0, 0.01) == 1.0
    assert binomial.lower_bound(0, 10, 0.01) == 0.0
    assert binomial.upper_bound(10, 10, 0.01) == 1.0
