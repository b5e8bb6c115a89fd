"""Windows are differences of counters, and sketches that merge."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ddsketch import DDSketch

from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.journal.live_windows import LiveWindows
from mailboat_agent.journal.telemetry import STAYS_KEPT_MAX, Telemetry, sketch_by_value
from mailboat_agent.serving import window as serving_window
from mailboat_agent.serving.runtime import Absence, Runtime
from mailboat_agent.serving.window import LatencyWindow, ServingCounters, ServingWindow
from mailboat_schemas.live_figures import CounterSum
from mailboat_schemas.window_merge import merge_sketches

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
GAMMA = 1.01 / 0.99


def measured(*latencies_ms: float) -> LatencyWindow:
    window = LatencyWindow()
    for latency_ms in latencies_ms:
        window.add(latency_ms)
    return window


class OneRelease(Runtime):
    """A runtime that serves one release by hand, so that the numbers are visible."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: NOON)
        self.counters = ServingCounters(lambda: NOON)
        self.serial = 1

    def drain_window(self, model: str) -> tuple[ServingWindow, ...]:
        latencies = self.counters.swap_windows()
        stats = self.counters.stats(
            model=model,
            version="1.0.0",
            digest="a" * 64,
            serial=self.serial,
            peak_memory_bytes=5,
            ready=True,
        )
        return (ServingWindow(stats, latencies),)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.db", random.Random(1))
    yield journal
    journal.close()


def test_each_window_counts_what_came_since_the_last(journal: Journal) -> None:
    runtime = OneRelease()
    telemetry = Telemetry(runtime, journal, NOON)
    runtime.counters.count_ok(10)
    runtime.counters.count_ok(20)
    telemetry.drain(["vad"], NOON + timedelta(seconds=60), 60)
    runtime.counters.count_ok(30)
    runtime.counters.count_error()
    telemetry.drain(["vad"], NOON + timedelta(seconds=120), 60)

    first, second = journal.windows_after(0, 10, 1 << 20)

    assert (first.requests_ok, first.requests_error) == (2, 0)
    assert (second.requests_ok, second.requests_error) == (1, 1)
    assert second.started_at - first.started_at == 60_000
    assert second.latency is not None
    assert second.latency.count == 1


def test_an_idle_window_is_told_too_and_measures_nothing(journal: Journal) -> None:
    telemetry = Telemetry(OneRelease(), journal, NOON)

    telemetry.drain(["vad"], NOON, 60)

    (window,) = journal.windows_after(0, 10, 1 << 20)
    assert (window.requests_ok, window.latency) == (0, None)


def test_a_release_that_comes_back_is_counted_from_zero(journal: Journal) -> None:
    runtime = OneRelease()
    telemetry = Telemetry(runtime, journal, NOON)
    runtime.counters.count_ok(1)
    telemetry.drain(["vad"], NOON, 60)
    runtime.counters, runtime.serial = ServingCounters(lambda: NOON), 2
    runtime.counters.count_ok(1)
    telemetry.drain(["vad"], NOON, 60)

    assert [window.requests_ok for window in journal.windows_after(0, 10, 1 << 20)] == [1, 1]


def said(runtime: OneRelease, good: int, total: int) -> None:
    """The application says how good the answers of the one release were."""
    runtime.live.feedback.serves("vad", "1.0.0", "a" * 64, 0)
    counters = {"accuracy": {"good": good, "total": total}}
    body = json.dumps({"model": "vad", "release": "a" * 64, "counters": counters})
    runtime.live.feedback.post(body.encode(), 0)


def test_what_the_application_says_stands_in_the_window_of_the_release(journal: Journal) -> None:
    runtime = OneRelease()
    telemetry = Telemetry(runtime, journal, NOON)
    runtime.counters.count_ok(10)
    said(runtime, 9, 10)
    telemetry.drain(["vad"], NOON + timedelta(seconds=60), 60)
    said(runtime, 1, 2)
    telemetry.drain(["vad"], NOON + timedelta(seconds=120), 60)
    telemetry.drain(["vad"], NOON + timedelta(seconds=180), 60)

    windows = journal.windows_after(0, 10, 1 << 20)

    assert [window.counters for window in windows] == [
        {"accuracy": CounterSum(good=9, total=10)},
        {"accuracy": CounterSum(good=1, total=2)},
        {},
    ]
    assert (windows[0].requests_ok, windows[0].seconds) == (1, 60)
    assert [window.merged for window in windows] == [1, 1, 1]


def test_what_is_said_of_a_release_that_is_gone_has_a_window_of_its_own(journal: Journal) -> None:
    runtime = OneRelease()
    telemetry = Telemetry(runtime, journal, NOON)
    said(runtime, 9, 10)
    runtime.drain_window = lambda _: ()  # type: ignore[method-assign]
    telemetry.drain(["vad"], NOON, 60)

    (window,) = journal.windows_after(0, 10, 1 << 20)

    assert (window.version, window.requests_ok, window.seconds) == ("1.0.0", 0, 60)
    assert window.counters == {"accuracy": CounterSum(good=9, total=10)}


def test_what_was_taken_and_not_written_is_in_the_next_window() -> None:
    runtime = OneRelease()
    windows = LiveWindows(runtime.live)
    said(runtime, 9, 10)
    windows.take("vad", NOON)  # and the disk was full
    said(runtime, 1, 2)
    windows.take("vad", NOON + timedelta(seconds=60))

    (window,) = windows.rest(seconds=60)
    assert window.counters == {"accuracy": CounterSum(good=10, total=12)}
    assert window.merged == 1
    windows.told(window)
    assert windows.rest(seconds=60) == []


def test_only_so_many_stays_are_remembered(journal: Journal) -> None:
    runtime = OneRelease()
    telemetry = Telemetry(runtime, journal, NOON)
    for serial in range(STAYS_KEPT_MAX + 5):
        runtime.serial = serial
        telemetry._seen_of(runtime.drain_window("vad")[0].stats)

    assert len(telemetry._seen) == STAYS_KEPT_MAX


def test_a_sketch_by_value_answers_quantiles_within_its_accuracy() -> None:
    latencies_ms = [0.5 * 1.01**n for n in range(1000)]
    sketch = sketch_by_value(measured(*latencies_ms))

    assert sketch is not None
    assert sum(sketch.bins) == sketch.count == 1000
    rank = 949
    keys = [key for key, n in enumerate(sketch.bins, start=sketch.offset) for _ in range(n)]
    key = keys[rank]
    assert 2 * GAMMA**key / (1 + GAMMA) == pytest.approx(latencies_ms[rank], rel=0.0101)


def test_sketches_of_two_windows_merge_into_that_of_both() -> None:
    one, other = (1.0, 5.0, 250.0), (0.01, 90.0)

    merged = merge_sketches(sketch_by_value(measured(*one)), sketch_by_value(measured(*other)))

    assert merged == sketch_by_value(measured(*one, *other))


def test_a_range_no_latency_has_collapses_into_the_lowest_bucket() -> None:
    sketch = sketch_by_value(measured(1e-30, 1e-20, 1e30))

    assert sketch is not None
    assert len(sketch.bins) <= 4096
    assert sum(sketch.bins) == 3


class NothingServed(OneRelease):
    """Its rule answers meanwhile."""

    def drain_window(self, _model: str) -> tuple[ServingWindow, ...]:
        return ()

    def absences(self) -> dict[str, Absence]:
        return {"vad": Absence("it is being loaded", 1, version="1.1.0", digest="b" * 64)}


def test_degraded_answers_while_nothing_serves_are_told_of_the_release_that_should(
    journal: Journal,
) -> None:
    answers = [{"fallback-rule": 3}, {}, {"fallback-rule": 2}]
    telemetry = Telemetry(NothingServed(), journal, NOON, lambda _: answers.pop(0))

    for minute in (1, 2, 3):
        telemetry.drain(["vad"], NOON + timedelta(minutes=minute), 60)

    told = journal.windows_after(0, 10, 1 << 20)
    assert [window.degraded for window in told] == [{"fallback-rule": 3}, {"fallback-rule": 2}]
    assert {(window.version, window.digest) for window in told} == {("1.1.0", "b" * 64)}
    assert {window.requests_ok for window in told} == {0}


def test_of_all_requests_only_the_first_of_a_window_makes_a_sketch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counters = ServingCounters(lambda: NOON)
    made: list[float] = []

    def counted(accuracy: float) -> DDSketch:
        made.append(accuracy)
        return DDSketch(accuracy)

    monkeypatch.setattr(serving_window, "DDSketch", counted)

    for _ in range(3):
        for latency_ms in (1.0, 2.0, 3.0):
            counters.count_ok(latency_ms)
        assert [each.count for each in counters.swap_windows().values()] == [3]

    assert made == [serving_window.LATENCY_RELATIVE_ACCURACY] * 3
