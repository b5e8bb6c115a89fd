"""What is written down of drills: through a kill at every disk call, and the pure rules."""

import dataclasses
import json
import random
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kill_points import killed_at_each_point
from mailboat_agent.drill import requests
from mailboat_agent.drill.book import DrillBook
from mailboat_agent.drill.launch import DrillLaunch
from mailboat_agent.drill.record import (
    ANSWERED_MAX,
    FILE_BYTES_MAX,
    FILE_NAME,
    MODELS_MAX,
    DrillFile,
    DrillRecord,
    DrillResult,
)
from mailboat_agent.drill.requests import LocalRequest, Request
from mailboat_agent.drill.running import DrillRun
from mailboat_agent.drill.telling import describe_drills, drill_event, for_people
from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.ledger import Ledger
from mailboat_agent.serving.process import WorkerHung
from mailboat_agent.state_file import StateFile
from mailboat_agent.update.drill import Surroundings, in_the_way, pause_seconds, period_number
from mailboat_agent.update.events import BECAUSE_CHARS_MAX
from mailboat_agent.update.state import Installed
from mailboat_schemas.codec import encode
from mailboat_schemas.desired import ASSIGNMENTS_MAX
from mailboat_schemas.device_orders import DRILLS_MAX
from mailboat_schemas.drills import DrillOutcome
from mailboat_schemas.events import EVIDENCE_BYTES_MAX

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
REQUEST = Request(order="0123456789abcdef", model="vad", reason="a test")


def opened(directory: Path) -> tuple[DrillBook, Journal]:
    journal = Journal(directory / "journal.db", random.Random(1))
    ledger = Ledger(StateFile(directory), journal, now=NOW, rng=random.Random(1))
    return DrillBook(directory, ledger), journal


def attempt(directory: Path) -> None:
    """From the attempt that is counted to the event that is told."""
    book, journal = opened(directory)
    assert book.is_in_order(0)
    assert book.count_attempt(REQUEST)
    book.answer(
        REQUEST,
        DrillOutcome.PASSED,
        NOW,
        because="1.0.0 could take over",
        release=Installed(version="1.0.0", digest="ab" * 32),
        evidence={"return_ms": 12.5},
    )
    journal.close()


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 9])
def test_a_kill_at_any_moment_counts_the_attempt_and_tells_once(tmp_path: Path, step: int) -> None:
    counted, told = set(), set()
    for directory in killed_at_each_point(tmp_path, lambda _: None, attempt, step=step):
        book, journal = opened(directory)
        assert book.is_in_order(0)  # what was recorded and not told is told now
        attempts, answered = book.attempts(REQUEST), book.has_answered(REQUEST)
        counted.add(attempts)
        events = [event.kind.value for event in journal.events_after(0, 10, 1 << 20)]
        assert events == (["drill_passed"] if answered else [])
        assert not (answered and attempts)
        told.add(answered)
        journal.close()
        if not answered:
            attempt(directory)  # the next life does it again, and tells it once
            book, journal = opened(directory)
            assert book.is_in_order(0)
            assert len(journal.events_after(0, 10, 1 << 20)) == 1
            journal.close()
    assert (counted, told) == ({0, 1}, {False, True})


def result(order: str, outcome: DrillOutcome = DrillOutcome.PASSED, at: int = 1) -> DrillResult:
    return DrillResult(order=order, outcome=outcome, at=at, evidence={"return_ms": 5.0})


def test_a_failure_leaves_what_passed_before(tmp_path: Path) -> None:
    record = DrillRecord().ended("vad", result("a", at=7))
    record = record.ended("vad", result("b", DrillOutcome.FAILED, at=9))
    DrillFile(tmp_path).save(record)

    drills = DrillFile(tmp_path).load().of("vad")
    assert (drills.passed_at, drills.return_ms) == (7, 5.0)
    assert drills.last is not None
    assert drills.last.outcome is DrillOutcome.FAILED


def test_what_is_remembered_is_bounded() -> None:
    record = DrillRecord()
    for number in range(max(ANSWERED_MAX, MODELS_MAX) + 1):
        record = record.ended(f"m{number}", result(f"due-{number}"))

    assert len(record.answered) == ANSWERED_MAX
    assert len(record.models) == MODELS_MAX
    assert not record.has_answered("due-0", "m0")
    assert record.has_answered(f"due-{ANSWERED_MAX}", f"m{ANSWERED_MAX}")


def test_every_order_that_may_wait_here_is_remembered_for_every_model() -> None:
    """One that was forgotten and still stands would be drilled again and again."""
    orders, models = range(DRILLS_MAX), range(ASSIGNMENTS_MAX)
    record = DrillRecord()
    for order in orders:
        for model in models:
            record = record.ended(f"m{model}", result(f"{order:016x}"))

    assert all(
        record.has_answered(f"{each:016x}", f"m{model}") for each in orders for model in models
    )


def test_what_a_release_says_of_its_failure_is_bounded_on_the_disk_and_in_the_event(
    tmp_path: Path,
) -> None:
    book, journal = opened(tmp_path)
    told = {f"measure {number}": "x" * 1000 for number in range(16)}
    evidence = {"return_ms": 12.5, **told}
    book.answer(REQUEST, DrillOutcome.FAILED, NOW, because="y" * 5000, evidence=evidence)

    (event,) = journal.events_after(0, 10, 1 << 20)
    assert event.evidence["return_ms"] == 12.5
    assert len(encode(event)) < EVIDENCE_BYTES_MAX + BECAUSE_CHARS_MAX
    assert (tmp_path / FILE_NAME).stat().st_size * MODELS_MAX < FILE_BYTES_MAX
    journal.close()


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 64, b"[]", b'{"models": 7}', b" " * (FILE_BYTES_MAX + 1)]
)
def test_a_record_that_cannot_be_read_is_an_empty_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)

    assert DrillFile(tmp_path).load() == DrillRecord()


# --- somebody at the device ----------------------------------------------------------------------


def test_a_request_that_lies_there_is_taken_once(tmp_path: Path) -> None:
    requests.lay_down(tmp_path, LocalRequest(number=7, model="vad", reason="on site"))

    found = requests.take_away(tmp_path)
    assert found is not None
    assert (found.order, found.model) == ("local-7", "vad")
    assert requests.take_away(tmp_path) is None


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"number": -1}', b'{"number": 1e99}', b"x" * 9999]
)
def test_what_is_no_request_is_thrown_away(tmp_path: Path, content: bytes) -> None:
    (tmp_path / requests.REQUEST_NAME).write_bytes(content)

    assert requests.take_away(tmp_path) is None
    assert not (tmp_path / requests.REQUEST_NAME).exists()


# --- the rules -----------------------------------------------------------------------------------

QUIET = Surroundings(clock_trusted=True, serves=True)


def test_everything_else_comes_before_a_drill() -> None:
    assert in_the_way(QUIET) == ("", "")
    for changes, word in (
        ({"at_work": "other"}, "under_way"),
        ({"busy": True}, "busy"),
        ({"pressure": "thermal"}, "thermal"),
        ({"pressure": "power"}, "power"),
        ({"clock_trusted": False}, "clock"),
        ({"serves": False}, "starting"),
    ):
        found, because = in_the_way(dataclasses.replace(QUIET, **changes))
        assert found == word
        assert because


def test_where_something_always_comes_first_drills_take_no_turn_every_minute() -> None:
    pauses = [pause_seconds(times) for times in (1, 2, 3, 4, 5, 6, 10_000)]

    assert pauses == [60, 120, 240, 480, 900, 900, 900]


def test_whoever_gives_a_drill_up_does_not_wait_for_its_processes() -> None:
    """The event loop does, while the drill may be waiting for a worker to come, or to go."""
    launch = DrillLaunch()
    caller = threading.Thread(target=launch.give_up_soon, daemon=True)
    with launch._lock:  # as `start` holds it
        caller.start()
        caller.join(60)
        assert not caller.is_alive()
        assert launch.given_up
    launch.give_up()
    with pytest.raises(OSError, match="given up"):
        launch.start(-1)


@pytest.mark.parametrize(("answered", "code"), [(0, "hung"), (7, "processor_busy")])
def test_a_worker_that_others_outdo_as_it_is_made_ready_says_nothing_of_the_release(
    answered: int, code: str
) -> None:
    found = DrillRun._judged(WorkerHung(5.0), answered)

    outcome = DrillOutcome.SKIPPED if answered else DrillOutcome.FAILED
    assert (found.outcome, found.code) == (outcome, code)


def test_a_fleet_does_not_drill_in_step() -> None:
    turned = set()
    for number in range(200):
        device = f"kiosk-{number}"
        first = period_number(device, "vad", 7, NOW)
        hours = next(
            hour
            for hour in range(7 * 24 + 1)
            if period_number(device, "vad", 7, NOW + timedelta(hours=hour)) > first
        )
        assert period_number(device, "vad", 7, NOW + timedelta(days=7)) == first + 1
        turned.add(hours)
    assert len(turned) > 80  # of 168 hours


def test_people_see_how_the_last_drill_ended() -> None:
    record = DrillRecord().ended("vad", dataclasses.replace(result("a"), version="1.0.0"))
    shown = json.loads(json.dumps(for_people(record, {}, {"vad": "busy"})))

    (line,) = describe_drills(shown)
    passed = "drill     vad: passed of 1.0.0 at 1970-01-01T00:00:00+00:00"
    assert line == f"{passed}, a return would take 5.0 ms; waits: busy"
    assert describe_drills(for_people(DrillRecord(), {}, {})) == []
    assert drill_event("vad", result("local-7")).event_id == "drill:vad:local-7"
