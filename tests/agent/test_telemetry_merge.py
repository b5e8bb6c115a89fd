"""Two windows made one say what both said."""

from hypothesis import given
from hypothesis import strategies as st

from mailboat_schemas.live_figures import CounterSum, ShadowSum, Shift, ValueSum
from mailboat_schemas.reports import LatencySketch, TelemetryWindow
from mailboat_schemas.window_merge import SKETCH_BINS_MAX, merge_sketches, merge_windows

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


def shifted(tensor: str, requests: int, shift: float) -> Shift:
    return Shift(tensor=tensor, side="input", requests=requests, shift=shift)


def test_what_is_told_of_live_traffic_merges_too() -> None:
    older = OLDER.model_copy(
        update={
            "counters": {"accuracy": CounterSum(good=9, total=10)},
            "shifts": (shifted("a", 100, 0.4), shifted("b", 100, 0.1)),
            "shadow": ShadowSum(mirrored=5, agreed=4, differed=1),
        }
    )
    newer = NEWER.model_copy(
        update={
            "counters": {"accuracy": CounterSum(good=1, total=2)},
            "values": {"order_eur": ValueSum(count=1, sum=7.5)},
            "shifts": (shifted("a", 50, 0.2), shifted("b", 50, 0.6)),
            "shadow": ShadowSum(mirrored=1, failed=1),
        }
    )

    merged = merge_windows(older, newer)

    assert merged.counters == {"accuracy": CounterSum(good=10, total=12)}
    assert merged.values == {"order_eur": ValueSum(count=1, sum=7.5)}
    assert merged.shifts == (shifted("b", 150, 0.6), shifted("a", 150, 0.4))
    assert merged.shadow == ShadowSum(mirrored=6, agreed=4, differed=1, failed=1)


figures = st.builds(
    lambda counters, shifts, shadow: OLDER.model_copy(
        update={"counters": counters, "shifts": tuple(shifts), "shadow": shadow}
    ),
    st.dictionaries(
        st.sampled_from("abc"),
        st.builds(CounterSum, good=st.integers(0, 9), total=st.integers(9, 18)),
    ),
    st.lists(
        st.builds(shifted, st.sampled_from("xyz"), st.integers(0, 9), st.floats(0, 9)),
        unique_by=lambda shift: shift.tensor,
    ),
    st.none() | st.builds(ShadowSum, mirrored=st.integers(0, 9), agreed=st.integers(0, 9)),
)


@given(figures, figures, figures)
def test_it_makes_no_difference_which_windows_are_merged_first(
    one: TelemetryWindow, two: TelemetryWindow, three: TelemetryWindow
) -> None:
    left = merge_windows(merge_windows(one, two), three)
    right = merge_windows(one, merge_windows(two, three))

    assert left.counters == right.counters
    assert set(left.shifts) == set(right.shifts)
    assert left.shadow == right.shadow
