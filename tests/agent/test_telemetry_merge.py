"""Two windows made one say what both said."""

from mailboat_agent.journal.telemetry_merge import SKETCH_BINS_MAX, merge_sketches, merge_windows
from mailboat_schemas.reports import LatencySketch, TelemetryWindow

OLDER = TelemetryWindow(
    sequence=3, model="vad", version="1.0.0", digest="a" * 64, started_at=1000, seconds=60,
    requests_ok=10, requests_error=1, worker_restarts=1, peak_memory_bytes=700, last_ok_at=50_000,
    latency=LatencySketch(
        relative_accuracy=0.01, offset=5, bins=(1, 2), zero_count=1, count=4, sum_ms=9.0,
        min_ms=0.0, max_ms=4.0,
    ),
)  # fmt: skip
NEWER = TelemetryWindow(
    sequence=4, model="vad", version="1.0.0", digest="a" * 64, started_at=61_000, seconds=60,
    requests_ok=5, requests_error=0, peak_memory_bytes=600, last_ok_at=None,
    latency=LatencySketch(
        relative_accuracy=0.01, offset=6, bins=(4, 0, 1), count=5, sum_ms=20.0,
        min_ms=2.0, max_ms=8.0,
    ),
)  # fmt: skip


def test_counters_add_up_and_extremes_stay() -> None:
    merged = merge_windows(OLDER, NEWER)

    assert merged.sequence == 4
    assert (merged.started_at, merged.seconds) == (1000, 120)
    assert (merged.requests_ok, merged.requests_error, merged.worker_restarts) == (15, 1, 1)
    assert (merged.peak_memory_bytes, merged.last_ok_at) == (700, 50_000)
    assert merged.latency == LatencySketch(
        relative_accuracy=0.01, offset=5, bins=(1, 6, 0, 1), zero_count=1, count=9, sum_ms=29.0,
        min_ms=0.0, max_ms=8.0,
    )  # fmt: skip


def test_a_window_without_a_sketch_takes_the_other_one() -> None:
    assert merge_sketches(None, NEWER.latency) == NEWER.latency
    assert merge_sketches(OLDER.latency, None) == OLDER.latency
    assert merge_sketches(None, None) is None


def test_an_empty_sketch_adds_nothing() -> None:
    empty = LatencySketch(relative_accuracy=0.01, offset=0, bins=(), count=0)

    assert merge_sketches(empty, NEWER.latency) == NEWER.latency
    assert merge_sketches(empty, empty) == empty


def test_sketches_of_different_accuracy_are_not_mixed() -> None:
    other = LatencySketch(relative_accuracy=0.02, offset=0, bins=(7,), count=7)

    assert merge_sketches(other, NEWER.latency) == NEWER.latency


def test_a_sketch_too_wide_collapses_its_lowest_buckets() -> None:
    low = LatencySketch(relative_accuracy=0.01, offset=-10, bins=(3,), count=3)
    high = LatencySketch(relative_accuracy=0.01, offset=0, bins=(1,) * SKETCH_BINS_MAX, count=4096)

    merged = merge_sketches(low, high)

    assert merged is not None
    assert (merged.offset, len(merged.bins), merged.bins[0]) == (0, SKETCH_BINS_MAX, 4)
    assert sum(merged.bins) == merged.count
