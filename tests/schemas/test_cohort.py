"""Positions, exact counts and caps."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailboat_schemas import cohort

SEED = "c0ffee"
HUNDRED = [f"dev-{n}" for n in range(100)]


def inside(devices: list[str], upto: str) -> set[str]:
    return {device for device in devices if cohort.position(SEED, device) <= upto}


def test_a_wave_of_eight_of_a_hundred_lets_in_exactly_eight() -> None:
    assert len(inside(HUNDRED, cohort.upto_for(SEED, HUNDRED, 8))) == 8


@given(st.integers(0, 100), st.integers(0, 100))
def test_raising_the_number_only_adds_devices(first: int, second: int) -> None:
    small, large = sorted((first, second))
    before = inside(HUNDRED, cohort.upto_for(SEED, HUNDRED, small))
    after = inside(HUNDRED, cohort.upto_for(SEED, HUNDRED, large))

    assert len(before) == small
    assert before <= after


def test_a_wave_of_none_lets_in_nobody_and_one_of_all_lets_in_everybody() -> None:
    assert cohort.upto_for(SEED, HUNDRED, 0) == cohort.UPTO_NONE
    assert not inside(HUNDRED, cohort.UPTO_NONE)
    assert cohort.upto_for(SEED, HUNDRED, 100) == cohort.UPTO_ALL


def test_another_release_picks_other_canaries() -> None:
    assert cohort.ranked("one", HUNDRED)[:8] != cohort.ranked("two", HUNDRED)[:8]


def test_the_seed_and_the_device_cannot_be_shifted_into_each_other() -> None:
    assert cohort.position("ab", "c") != cohort.position("a", "bc")


def test_the_cap_of_eight_of_a_hundred_is_about_a_fifth_of_all_positions() -> None:
    assert 205_000 < cohort.cap_ppm(8, 100) < 220_000


def test_the_cap_of_all_devices_is_everything_and_of_none_nothing() -> None:
    assert cohort.cap_ppm(3, 3) == cohort.PPM
    assert cohort.cap_ppm(0, 3) == 0


def test_an_honest_wave_stays_below_its_cap() -> None:
    rng = random.Random(7)
    cap = cohort.upto_of_ppm(cohort.cap_ppm(8, 100))
    honest = sum(cohort.upto_for(f"{rng.random()}", HUNDRED, 8) <= cap for _ in range(1000))

    assert honest >= 998


def test_ppm_covers_the_whole_range_of_positions() -> None:
    assert cohort.upto_of_ppm(0) == cohort.UPTO_NONE
    assert cohort.upto_of_ppm(cohort.PPM) == cohort.UPTO_ALL
    assert cohort.upto_of_ppm(500_000) == "8000000000000000"


def test_start_jitter_spreads_evenly() -> None:
    fractions = [cohort.start_fraction(SEED, f"dev-{n}") for n in range(1000)]

    assert min(fractions) >= 0
    assert max(fractions) < 1
    assert 0.45 < sum(fractions) / 1000 < 0.55


def test_the_cap_of_a_million_devices_follows_the_same_rule() -> None:
    # A sum over every count took minutes here, for anybody who asked for such a plan. So many are
    # nearly normal: the 0.9999 quantile is 3.719 standard deviations of 500 ppm above the half.
    assert cohort.cap_ppm(500_000, 1_000_000) == pytest.approx(500_000 + 3.719 * 500, abs=2)
    assert cohort.cap_ppm(999_999, 1_000_000) == cohort.PPM
    assert cohort.cap_ppm(1, 1_000_000) == 10  # 1 - 0.0001 ** 1e-6 is 9.2 ppm
