"""Harness C on small stories: nothing is wrong with the agent, and a planted defect is seen."""

import os

import pytest
from tests.faults.power_harness import PowerTally, Thoroughness, cut_power
from tests.faults.scenes import scene
from tests.faults.traced_run import why_not_traceable

from mailboat_agent import atomic_file

pytestmark = pytest.mark.skipif(bool(why_not_traceable()), reason=why_not_traceable() or "-")


def cut(name: str, states_max: int, **more: object) -> PowerTally:
    thoroughness = Thoroughness(states_max, full_check_each=states_max, stop_at_first=bool(more))
    return cut_power(scene(name), thoroughness, **more)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_power_cut_while_it_tidies_up_leaves_a_device_that_serves() -> None:
    tally = cut("garbage", 30)

    assert tally.violations == []
    assert tally.total == 30 == tally.booted["garbage"]
    assert tally.fully == 1


@pytest.mark.slow
def test_a_record_that_is_not_synced_before_its_rename_is_found_out() -> None:
    def plant() -> None:
        """In the process that acts, which ends with it."""
        atomic_file.os.fsync = lambda _: None  # type: ignore[assignment]

    tally = cut("garbage", 60, plant=plant)

    assert tally.violating == 1
    assert os.fsync is atomic_file.os.fsync, "planted only where the story ran"
    assert "state.json" in tally.violations[0] or "I" in tally.violations[0]


@pytest.mark.slow
def test_a_power_cut_during_an_install_leaves_a_device_that_serves() -> None:
    tally = cut("install of a whole release", 200)

    assert tally.violations == []
    assert tally.distinct["install of a whole release"] > 2000
