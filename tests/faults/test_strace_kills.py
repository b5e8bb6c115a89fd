"""Harness B: strace kills where it was told to, and what is left goes on."""

import os
from pathlib import Path

import pytest
from tests.faults import strace_kills
from tests.faults.scenes import scene
from tests.faults.strace_kills import Fault, run_strace, sampled, strace_points
from tests.faults.traced_log import Call, read_calls
from tests.faults.traced_run import traced, why_not_traceable

pytestmark = pytest.mark.skipif(bool(why_not_traceable()), reason=why_not_traceable() or "-")


def test_a_kill_comes_before_the_call_it_was_told_for(tmp_path: Path) -> None:
    def act() -> None:
        descriptor = os.open(tmp_path / "a", os.O_CREAT | os.O_WRONLY)
        for word in (b"1", b"2", b"3"):
            os.write(descriptor, word)

    status = traced(act, tmp_path / "log", calls="write", inject="write:signal=KILL:when=3")

    assert status == -9
    assert (tmp_path / "a").read_bytes() == b"12"


def test_an_error_comes_instead_of_the_call_it_was_told_for(tmp_path: Path) -> None:
    def act() -> None:
        descriptor = os.open(tmp_path / "a", os.O_CREAT | os.O_WRONLY)
        with pytest.raises(OSError, match="No space left"):
            os.write(descriptor, b"1")
        os.write(descriptor, b"2")

    status = traced(act, tmp_path / "log", calls="write", inject="write:error=ENOSPC:when=1")

    assert status == 0
    assert (tmp_path / "a").read_bytes() == b"2"


def test_only_what_changes_the_directory_is_a_point(tmp_path: Path) -> None:
    device, told = tmp_path / "device", tmp_path / "device.told"
    device.mkdir()

    def act() -> None:
        told.write_bytes(b"outside")
        (device / "a").write_bytes(b"inside")
        (device / "a").read_bytes()
        (device / "a").rename(device / "b")

    traced(act, tmp_path / "log", calls=strace_kills.CALLS)
    with (tmp_path / "log").open() as lines:
        calls = [call for call in read_calls(lines) if isinstance(call, Call)]

    found = [(call.name, strace_kills.place_of(call, device)) for call in calls]
    assert [each for each in found if each[1]] == [("openat", "a"), ("write", "a"), ("rename", "a")]


def test_a_story_killed_by_strace_is_found_in_order() -> None:
    points = strace_points(scene("garbage"))
    tally = run_strace([point for point in points if point.call == "unlink"][:1])

    assert tally.violations == []
    assert tally.points == {str(Fault.KILL): 1}


@pytest.mark.slow
def test_sqlite_is_killed_within_its_own_calls_and_loses_nothing() -> None:
    points = [point for point in strace_points(scene("outbox")) if point.place == "journal.db-wal"]
    tally = run_strace(sampled(points, 20))

    assert tally.violations == []
    assert tally.calls["pwrite64"] >= 10
