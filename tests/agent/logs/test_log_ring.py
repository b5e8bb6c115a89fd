"""A bounded log on the disk, that harms nobody when the disk refuses."""

import asyncio
import gc
import logging
import threading
from pathlib import Path

import pytest

from mailboat_agent.background import in_background
from mailboat_agent.logs import recording, ring
from mailboat_agent.logs.lines import about_release
from mailboat_agent.logs.recording import BURST_LINES, LogRecorder, RingHandler
from mailboat_agent.logs.ring import SEGMENT_BYTES_MIN, SEGMENTS, LogRing
from mailboat_schemas.tracing import trace_id

BYTES_MAX = SEGMENTS * SEGMENT_BYTES_MIN


def say(log: LogRing, text: str) -> None:
    log.append(at=1_700_000_000_000, level="info", logger="test", message=text)


def on_disk(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.jsonl"))


def test_the_log_stays_under_its_bound_and_keeps_the_newest_lines(tmp_path: Path) -> None:
    log = LogRing(tmp_path, BYTES_MAX)

    for number in range(1000):
        say(log, f"{number} " + "x" * 400)
        if number % 100 == 0:
            assert on_disk(tmp_path) <= BYTES_MAX

    assert on_disk(tmp_path) <= BYTES_MAX
    lines = log.read()
    assert lines[-1].number == 1000
    assert [line.number for line in lines] == list(range(lines[0].number, 1001))
    # An eighth goes at a time: seven are always there.
    assert on_disk(tmp_path) > BYTES_MAX * 6 // SEGMENTS


def test_numbers_go_on_after_a_restart_and_the_lines_are_still_there(tmp_path: Path) -> None:
    log = LogRing(tmp_path, BYTES_MAX)
    for number in range(5):
        say(log, f"before {number}")
    log.close()

    again = LogRing(tmp_path, BYTES_MAX)
    say(again, "after")

    assert [line.number for line in again.read()] == [1, 2, 3, 4, 5, 6]
    assert again.read(after=5)[0].message == "after"


def test_a_line_torn_by_a_power_cut_costs_itself_alone(tmp_path: Path) -> None:
    log = LogRing(tmp_path, BYTES_MAX)
    for number in range(3):
        say(log, f"line {number}")
    log.close()
    (segment,) = tmp_path.glob("*.jsonl")
    segment.write_bytes(segment.read_bytes()[:-20] + b"\xff\x00")

    again = LogRing(tmp_path, BYTES_MAX)
    say(again, "after")

    assert [line.message for line in again.read()] == ["line 0", "line 1", "after"]
    assert again.read()[-1].number > 2


def test_lines_are_for_the_agents_user_alone(tmp_path: Path) -> None:
    log = LogRing(tmp_path / "logs", BYTES_MAX)
    say(log, "hello")

    (segment,) = (tmp_path / "logs").glob("*.jsonl")
    assert segment.stat().st_mode & 0o777 == 0o600
    assert segment.parent.stat().st_mode & 0o777 == 0o700


def test_a_disk_that_refuses_costs_the_lines_on_it_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "logs"
    directory.write_text("a file where the directory should be")
    log = LogRing(directory, BYTES_MAX)

    for number in range(ring.RETRY_AFTER_LINES + 10):
        say(log, f"line {number}")
    assert len(log.tail(1000)) == ring.RETRY_AFTER_LINES + 10  # in memory

    directory.unlink()  # somebody has made room
    for number in range(ring.RETRY_AFTER_LINES + 10):
        say(log, f"later {number}")
    assert on_disk(directory) > 0


def test_no_bytes_for_it_means_no_file(tmp_path: Path) -> None:
    log = LogRing(tmp_path / "logs", 0)
    say(log, "hello")

    assert not (tmp_path / "logs").exists()
    assert [line.message for line in log.tail(10)] == ["hello"]


def record_at(line: int, message: str = "the disk is full") -> logging.LogRecord:
    return logging.LogRecord("x", logging.ERROR, "module.py", line, message, (), None)


def test_a_loop_that_logs_does_not_push_out_the_line_that_says_why(tmp_path: Path) -> None:
    log, now = LogRing(tmp_path, 0), [100.0]
    handler = RingHandler(log, monotonic=lambda: now[0])

    handler.handle(record_at(7, "the cause"))
    for _ in range(10_000):
        handler.handle(record_at(1))
    assert log.newest == 1 + BURST_LINES
    assert handler.withheld == 10_000 - BURST_LINES

    now[0] += 1.0
    handler.handle(record_at(1))
    assert log.tail(1)[0].message == f"the disk is full ({10_000 - BURST_LINES} more like it)"
    assert log.tail(1000)[0].message == "the cause"


def test_only_so_many_places_are_remembered(tmp_path: Path) -> None:
    handler = RingHandler(LogRing(tmp_path, 0), monotonic=lambda: 1.0)

    for line in range(recording.PLACES_MAX + 50):
        handler.handle(record_at(line))

    assert len(handler._places) == recording.PLACES_MAX


def test_a_wrong_format_string_is_a_line_all_the_same(tmp_path: Path) -> None:
    log = LogRing(tmp_path, 0)
    wrong = logging.LogRecord("x", logging.INFO, "m.py", 1, "%d models", ("three",), None)

    RingHandler(log).handle(wrong)

    assert "three" in log.tail(1)[0].message


def test_what_the_program_logs_is_recorded_until_it_is_closed(tmp_path: Path) -> None:
    recorder = LogRecorder(tmp_path / "logs", BYTES_MAX)
    logger = logging.getLogger("mailboat_agent.test")
    logger.warning("heard")
    recorder.close()
    logger.warning("not heard")

    assert [line.message for line in recorder.ring.tail(10)] == ["heard"]


def test_what_a_thread_of_the_agent_logs_is_about_the_release_it_works_on(
    tmp_path: Path,
) -> None:
    log = LogRing(tmp_path, 0)
    handler = RingHandler(log)

    async def errand() -> None:
        with about_release("a1" * 32):
            await in_background(lambda: handler.handle(record_at(1)), name="work")
        handler.handle(record_at(2))

    asyncio.run(errand())

    assert [line.trace for line in log.tail(2)] == [trace_id("a1" * 32), ""]


def test_an_agent_that_starts_again_and_again_keeps_the_lines_that_say_why(tmp_path: Path) -> None:
    first = LogRing(tmp_path, BYTES_MAX)
    say(first, "the cause")
    first.close()

    for _ in range(3 * SEGMENTS):
        log = LogRing(tmp_path, BYTES_MAX)
        say(log, "started")
        log.close()

    assert [line.number for line in LogRing(tmp_path, BYTES_MAX).read()] == list(range(1, 26))
    assert len(list(tmp_path.glob("*.jsonl"))) == 1


def test_going_on_with_a_file_keeps_the_log_under_its_bound(tmp_path: Path) -> None:
    for _ in range(100):
        log = LogRing(tmp_path, BYTES_MAX)
        for number in range(2):
            say(log, f"{number} " + "x" * 1600)
        log.close()

    assert BYTES_MAX * 6 // SEGMENTS < on_disk(tmp_path) <= BYTES_MAX


def test_what_is_thrown_away_while_a_line_is_written_may_log_as_well(tmp_path: Path) -> None:
    """As asyncio does for a task whose error nobody asked for: it must not wait for itself."""
    log = LogRing(tmp_path, BYTES_MAX)

    class Task:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            say(log, "nobody asked")

    def run() -> None:
        with log._lock:  # a collection may begin wherever memory is taken
            Task()
            gc.collect(0)
        say(log, "after")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)

    assert not thread.is_alive()
    assert [line.message for line in log.tail(9)] == ["nobody asked", "after"]


def test_a_damaged_line_without_end_costs_no_memory_and_only_itself(tmp_path: Path) -> None:
    log = LogRing(tmp_path, BYTES_MAX)
    say(log, "before")
    log.close()
    (segment,) = tmp_path.glob("*.jsonl")
    with segment.open("ab") as file:
        file.write(b"x" * (ring.LINE_BYTES_MAX * 3) + b"\n")

    again = LogRing(tmp_path, BYTES_MAX)
    say(again, "after")

    assert [line.message for line in again.read()] == ["before", "after"]


def test_so_many_lines_are_in_memory(tmp_path: Path) -> None:
    log = LogRing(tmp_path, 0)
    for number in range(ring.TAIL_LINES_MAX + 5):
        say(log, f"{number}")

    assert len(log.read()) == ring.TAIL_LINES_MAX
