"""Two telemetry windows made one: when the buffer is full, resolution goes, not coverage. Pure."""

from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

from mailboat_schemas.documents.live_gates import COUNTERS_MAX
from mailboat_schemas.host_figures import HostFigures
from mailboat_schemas.live_figures import SHIFTS_MAX, CounterSum, ShadowSum, Shift, ValueSum
from mailboat_schemas.reports import LatencySketch, TelemetryWindow

SKETCH_BINS_MAX = 4096  # of the contract; the lowest buckets are collapsed beyond it

Posted = TypeVar("Posted", CounterSum, ValueSum)


def merge_windows(older: TelemetryWindow, newer: TelemetryWindow) -> TelemetryWindow:
    """One window for both, under the newer sequence. Both are of one model, digest and workload."""
    last_ok = [at for at in (older.last_ok_at, newer.last_ok_at) if at is not None]
    return newer.model_copy(
        update={
            "started_at": min(older.started_at, newer.started_at),
            "seconds": older.seconds + newer.seconds,
            "requests_ok": older.requests_ok + newer.requests_ok,
            "requests_error": older.requests_error + newer.requests_error,
            "requests_refused": older.requests_refused + newer.requests_refused,
            "merged": older.merged + newer.merged,
            "worker_restarts": older.worker_restarts + newer.worker_restarts,
            "peak_memory_bytes": max(older.peak_memory_bytes, newer.peak_memory_bytes),
            "last_ok_at": max(last_ok, default=None),
            "latency": merge_sketches(older.latency, newer.latency),
            "counters": _merge_posted(older.counters, newer.counters),
            "values": _merge_posted(older.values, newer.values),
            "shifts": _merge_shifts(older.shifts, newer.shifts),
            "shadow": _merge_shadows(older.shadow, newer.shadow),
            "degraded": dict(Counter(older.degraded) + Counter(newer.degraded)),
            "host": _merge_hosts(older.host, newer.host),
        }
    )


def _merge_posted(older: Mapping[str, Posted], newer: Mapping[str, Posted]) -> dict[str, Posted]:
    """By name; a release has `COUNTERS_MAX` names, and if it has had more the newer stay."""
    merged = dict(newer)
    for name, posted in older.items():
        if name in merged:
            merged[name] = merged[name].plus(posted)
        elif len(merged) < COUNTERS_MAX:
            merged[name] = posted
    return merged


def _merge_shifts(older: tuple[Shift, ...], newer: tuple[Shift, ...]) -> tuple[Shift, ...]:
    """The largest of each tensor, of all requests that were looked at."""
    merged: dict[tuple[str, str], Shift] = {}
    for each in (*older, *newer):
        seen = merged.setdefault((each.side, each.tensor), each)
        if seen is not each:
            requests, shift = seen.requests + each.requests, max(seen.shift, each.shift)
            both = each.model_copy(update={"requests": requests, "shift": shift})
            merged[each.side, each.tensor] = both
    furthest = sorted(merged.values(), key=lambda each: (-each.shift, each.side, each.tensor))
    return tuple(furthest[:SHIFTS_MAX])


def _merge_shadows(older: ShadowSum | None, newer: ShadowSum | None) -> ShadowSum | None:
    if older is None or newer is None:
        return newer or older
    return newer.plus(older)


def _merge_hosts(older: HostFigures | None, newer: HostFigures | None) -> HostFigures | None:
    if older is None or newer is None:
        return newer or older
    return older.plus(newer)


def merge_sketches(
    older: LatencySketch | None, newer: LatencySketch | None
) -> LatencySketch | None:
    """The sketch of both sets of latencies, bucket by bucket.

    Sketches of different accuracy cannot be merged exactly; the newer one stays, and its count says
    how many requests it speaks for.

    Source: Masson, Rim, Lee, "DDSketch", VLDB 2019, section 2.1 (merging, collapsing).
    """
    if older is None or newer is None:
        return newer or older
    if older.relative_accuracy != newer.relative_accuracy:
        return newer
    offset, bins = _add_bins(older, newer)
    return LatencySketch(
        relative_accuracy=newer.relative_accuracy,
        offset=offset,
        bins=bins,
        zero_count=older.zero_count + newer.zero_count,
        count=older.count + newer.count,
        sum_ms=older.sum_ms + newer.sum_ms,
        min_ms=min((ms for ms in (older.min_ms, newer.min_ms) if ms is not None), default=None),
        max_ms=max((ms for ms in (older.max_ms, newer.max_ms) if ms is not None), default=None),
    )


def _add_bins(older: LatencySketch, newer: LatencySketch) -> tuple[int, tuple[int, ...]]:
    filled = [sketch for sketch in (older, newer) if sketch.bins]
    if not filled:
        return newer.offset, ()
    end = max(sketch.offset + len(sketch.bins) for sketch in filled)
    first = min(sketch.offset for sketch in filled)
    # The lowest buckets are the ones no percentile of interest stands in.
    offset = max(first, end - SKETCH_BINS_MAX)
    bins = [0] * (end - offset)
    for sketch in filled:
        for index, count in enumerate(sketch.bins, start=sketch.offset):
            bins[max(index, offset) - offset] += count
    return offset, tuple(bins)
