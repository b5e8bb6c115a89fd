"""Small fleets of many seeds: nothing that must never be, and every planted bug is found.

``python -m tests.simulation`` plays as many as one likes; here are enough to see that it works.
"""

import pytest
from tests.simulation.__main__ import found_by, played
from tests.simulation.mutants import MUTANTS
from tests.simulation.story import Told

# By the invariant that they break; the whole list is for the slow test.
QUICKLY_FOUND = (
    "a withdrawn release serves on",
    "every device is in the cohort",
    "the watermark is one ahead",
    "the roles do not outlive a power cut",
    "the emergency lane is ignored",
    "a drill switches users",
    "the budgets of a class are not looked at",
)
MUTANTS_MIN = 78
SOMETIMES = (
    "went back while offline",
    "download interrupted",
    "manifest_refused",
    "trust_stale",
    "rollout halted",
    "rollout completed",
    "rollout superseded",
    "withdrawn",
    "nothing_to_serve",
    "rotten file",
    "director rotated",
    "config taken",
    "refused by window",
    "refused by cadence",
    "drill_passed",
    "drill_failed",
    "drill_skipped",
    "stopped by policy",
    "serves again what was stopped",
    "left what was stopped",
    "refused by memory",
    "refused by disk",
)


def test_a_seed_tells_the_same_story_each_time() -> None:
    told = played(2)

    assert isinstance(told, Told), told
    assert played(2) == told


@pytest.mark.parametrize("mutant", QUICKLY_FOUND)
def test_a_planted_bug_is_found(mutant: str) -> None:
    assert found_by(mutant, seeds_max=10) is not None


def test_there_are_enough_of_them_and_each_has_a_name_of_its_own() -> None:
    assert len(MUTANTS) >= MUTANTS_MIN
    assert set(QUICKLY_FOUND) <= set(MUTANTS)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutant", sorted(set(MUTANTS) - set(QUICKLY_FOUND)))
def test_every_planted_bug_is_found_within_200_seeds(mutant: str) -> None:
    assert found_by(mutant) is not None


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nothing_is_violated_in_a_hundred_stories_and_everything_happens_in_some() -> None:
    stories = [played(seed) for seed in range(100)]

    assert [(seed, told) for seed, told in enumerate(stories) if isinstance(told, str)] == []
    happened = {name for told in stories if isinstance(told, Told) for name in told.happened}
    assert set(SOMETIMES) - happened == set()
