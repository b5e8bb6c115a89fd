"""Summaries per window: what each release served since the last one, into the journal.

Counters of the runtime only grow; a window is the difference to the last. The latency sketch goes
by value, bucket by bucket, so that the controller can merge what thousands of devices measured.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from ddsketch import DDSketch

from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.journal.live_windows import LiveWindows
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.serving.window import (
    LATENCY_RELATIVE_ACCURACY,
    LatencyWindow,
    ServingStats,
    ServingWindow,
)
from mailboat_agent.update.events import milliseconds
from mailboat_schemas.reports import LatencySketch, TelemetryWindow

BINS_MAX = 4096  # of the contract; the lowest buckets are collapsed beyond it
STAYS_KEPT_MAX = 256  # releases whose last counters are remembered


@dataclass(frozen=True, slots=True)
class _Seen:
    requests_ok: int = 0
    requests_error: int = 0
    worker_restarts: int = 0


class Telemetry:
    """`drain` at the end of every window. One caller; what it takes out of the runtime is gone."""

    def __init__(
        self,
        runtime: Runtime,
        journal: Journal,
        now: datetime,
        degraded: Callable[[str], Mapping[str, int]] = lambda _: {},
    ) -> None:
        """``degraded`` gives a model's degraded answers since it was last asked, by mode."""
        self._runtime = runtime
        self._degraded = degraded
        self._untold: dict[str, Counter[str]] = {}  # degraded answers that are in no window yet
        self._live = LiveWindows(runtime.live)
        self._journal = journal
        self._began = now
        self._seen: dict[tuple[str, int], _Seen] = {}  # by model and stay

    def drain(self, models: Iterable[str], now: datetime, seconds: float) -> int:
        """Write one window per model and release; returns how many. ``seconds`` is monotonic.

        Raises:
            DiskFull, DiskFailing: this window is lost, the counters go into the next one.
        """
        began, self._began = self._began, now
        models = list(models)
        drained = [item for model in models for item in self._runtime.drain_window(model)]
        for model in models:
            self._live.take(model, began)
        for item in drained:
            model = item.stats.model
            degraded = self._untold.setdefault(model, Counter())
            degraded.update(self._degraded(model))
            window = self._live.put_into(self._window(item, began, seconds))
            self._journal.record_window(window.model_copy(update={"degraded": dict(degraded)}))
            self._remember(item.stats)
            self._live.told(window)
            del self._untold[model]
        for window in (rest := self._live.rest(seconds)):
            self._journal.record_window(window)
            self._live.told(window)
        return len(drained) + len(rest)

    def _window(self, item: ServingWindow, began: datetime, seconds: float) -> TelemetryWindow:
        stats = item.stats
        before = self._seen.get((stats.model, stats.serial), _Seen())
        return TelemetryWindow(
            sequence=1,  # the journal gives the real one
            model=stats.model,
            version=stats.version,
            digest=stats.digest,
            started_at=milliseconds(began),
            seconds=seconds,
            requests_ok=stats.requests_ok - before.requests_ok,
            requests_error=stats.requests_error - before.requests_error,
            worker_restarts=stats.worker_restarts - before.worker_restarts,
            peak_memory_bytes=stats.peak_memory_bytes,
            last_ok_at=None if stats.last_ok_at is None else milliseconds(stats.last_ok_at),
            latency=sketch_by_value(item.latency),
        )

    def _remember(self, stats: ServingStats) -> None:
        self._seen.pop((stats.model, stats.serial), None)
        self._seen[stats.model, stats.serial] = _Seen(
            stats.requests_ok, stats.requests_error, stats.worker_restarts
        )
        while len(self._seen) > STAYS_KEPT_MAX:
            self._seen.pop(next(iter(self._seen)))


def sketch_by_value(window: LatencyWindow) -> LatencySketch | None:
    """The buckets of a sketch; None when nothing was measured.

    Bucket ``offset + i`` counts latencies in (g^(k-1), g^k] ms with k = offset + i and
    g = (1 + a) / (1 - a), a being the relative accuracy.

    Source: Masson, Rim, Lee, "DDSketch", VLDB 2019, section 2; ddsketch's LogarithmicMapping.
    """
    if not window.count:
        return None
    sketch: DDSketch = window.sketch
    store = sketch._store
    if store.count:
        first, last = int(store.min_key), int(store.max_key)
        counts = [
            int(count) for count in store.bins[first - store.offset : last + 1 - store.offset]
        ]
    else:
        first, counts = 0, []
    surplus = len(counts) - BINS_MAX
    if surplus > 0:
        first += surplus
        counts = [sum(counts[: surplus + 1]), *counts[surplus + 1 :]]
    return LatencySketch(
        relative_accuracy=LATENCY_RELATIVE_ACCURACY,
        offset=first,
        bins=tuple(counts),
        zero_count=int(sketch._zero_count),
        count=window.count,
        sum_ms=window.sum_ms,
        min_ms=float(sketch._min),
        max_ms=float(sketch._max),
    )
