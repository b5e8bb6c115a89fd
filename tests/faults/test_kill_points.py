"""Harness A on small stories: it kills where it says, nothing is wrong, and defects are seen.

``make test-faults`` runs all of it; this is the part that fits into the quick suite.
"""

import os
from pathlib import Path
from typing import Any

import pytest
from tests.faults import kill_harness, world
from tests.faults.acknowledged import Acknowledged, told_path
from tests.faults.checks import of_a_start_on_a_dead_disk
from tests.faults.device import Life, live
from tests.faults.injection import KILLED, Fault, Injection, injected
from tests.faults.kill_harness import Point, calls_of, in_a_child, run
from tests.faults.mutants import MUTANTS, mutant
from tests.faults.scenes import SCENES, scene

from mailboat_agent.atomic_file import replace_durably
from mailboat_schemas.errors import DiskFull


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A device that has taken the next release and is in its soak, as a crash would leave it."""
    directory = tmp_path / "device"
    chosen = scene("install of a whole release")
    chosen.prepare(directory)

    bundle = world.current().bundles[chosen.story][chosen.rest]

    async def install(life: Life) -> None:
        life.take(bundle)
        await life.until(lambda: False)

    told = DiesInItsSoak(told_path(directory))
    status, _ = in_a_child(lambda: live(directory, install, told))
    assert status == KILLED
    return directory


class DiesInItsSoak(Acknowledged):
    """Power fails as soon as the record says that the soak has begun."""

    def note(self, **line: Any) -> None:
        Acknowledged.note(self, **line)
        if line.get("phase") == "soak":
            os._exit(KILLED)


def test_a_kill_within_a_write_leaves_half_of_it(tmp_path: Path) -> None:
    def act() -> None:
        with injected(Injection(tmp_path, 2, Fault.KILL_WITHIN)):
            replace_durably(tmp_path / "a", b"0123456789")

    status, _ = in_a_child(act)

    assert status == KILLED
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.new": b"01234"}


def test_a_disk_that_is_full_refuses_from_there_on_and_lets_things_be_removed(
    tmp_path: Path,
) -> None:
    injection = Injection(tmp_path, 0, Fault.ENOSPC)
    with injected(injection):
        for _ in range(2):
            with pytest.raises(DiskFull):
                replace_durably(tmp_path / "a", b"0")

    assert injection.names == ["open", "unlink"] * 2


def test_what_is_elsewhere_is_no_point(tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    injection = Injection(tmp_path / "device", -1, Fault.KILL_BEFORE)
    with injected(injection):
        (tmp_path / "device.told").write_bytes(b"outside")

    assert injection.names == []


def test_a_device_that_dies_while_it_tidies_up_goes_on() -> None:
    chosen = scene("garbage")
    calls = calls_of(chosen)
    points = [Point(chosen, number, Fault.KILL_BEFORE, calls[number]) for number in (0, 30, 45)]

    tally = run(points)

    assert tally.violations == []
    assert tally.points == {"killed before it": 3}
    assert len(calls) > 40


def test_a_journal_that_is_begun_anew_is_seen() -> None:
    found, _ = kill_harness.catches(mutant("journal begun anew at the start"))

    # Whichever the first point shows: what waited is gone, or is made up a second time.
    assert "was recorded and is lost" in found or "was told 2 times" in found


def test_with_no_room_to_count_a_soak_the_release_before_it_serves(device: Path) -> None:
    """Neither nothing, nor a release whose crashes nobody counts."""
    told = Acknowledged.of(device)

    assert told.saved["phase"] == "soak"
    assert of_a_start_on_a_dead_disk(device, told) == []


def test_the_record_of_the_outside_is_lines_of_which_a_prefix_can_be_read(device: Path) -> None:
    lines = told_path(device).read_bytes().splitlines()
    told = Acknowledged.read(b"\n".join(lines[:-3]))

    assert told.counter == 2
    assert 0 < len(told.recorded) <= len(Acknowledged.of(device).recorded)


def test_every_planted_defect_names_scenes_that_there_are() -> None:
    known = {each.name for each in SCENES}

    assert len({each.name for each in MUTANTS}) == len(MUTANTS) >= 16
    assert all(set(each.scenes) <= known for each in MUTANTS)


@pytest.mark.slow
def test_a_defect_that_only_a_power_cut_shows_is_not_seen_by_killing() -> None:
    found, tried = kill_harness.catches(mutant("record not synced"))

    assert found == ""
    assert tried == kill_harness.ONLY_POWER_POINTS
