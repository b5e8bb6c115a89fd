"""What publishing, promoting and halting cost does not grow with the fleet: rows and messages."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from large_fleet import MESSAGES, STEPS, Asked, LargeFleet

SMALL = 10


@pytest.fixture
def small(tmp_path: Path) -> Iterator[LargeFleet]:
    fleet = LargeFleet(tmp_path / "small", SMALL)
    yield fleet
    fleet.core.store.close()


def costs_the_same(small: LargeFleet, large: LargeFleet) -> dict[str, Asked]:
    """Play one rollout in both fleets and compare each step; returns what it came to."""
    found = {}
    for step in STEPS:
        of_small, of_large = step(small), step(large)
        assert of_large.rows_written() == of_small.rows_written(), step.__name__
        assert of_large.statements == of_small.statements, step.__name__
        found[step.__name__] = of_large
    return found


def check(small: LargeFleet, directory: Path, size: int) -> None:
    large = LargeFleet(directory, size)
    try:
        found = costs_the_same(small, large)
    finally:
        large.core.store.close()
    messages = {name: asked.rows_written().get(MESSAGES, 0) for name, asked in found.items()}
    # One class, one message for each change of what it is told, and none for looking.
    assert messages == {"publish": 1, "promote": 1, "order": 2, "halt": 1, "look_again": 0}
    assert found["look_again"].rows_written() == {}


def test_a_rollout_writes_as_many_rows_and_messages_for_two_hundred_devices_as_for_ten(
    small: LargeFleet, tmp_path: Path
) -> None:
    check(small, tmp_path / "large", 200)


@pytest.mark.slow
def test_a_rollout_writes_as_many_rows_and_messages_for_a_hundred_thousand_devices_as_for_ten(
    small: LargeFleet, tmp_path: Path
) -> None:
    check(small, tmp_path / "large", 100_000)
