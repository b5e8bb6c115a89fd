"""Summaries per window: what each release served since the last one, into the journal.

Counters of the runtime only grow; a window is the difference to the last. The latency sketch goes
by value, bucket by bucket, so that the controller can merge what thousands of devices measured.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from ddsketch import DDSketch

from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.journal.live_windows import LiveWindows
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.serving.window import (
    LATENCY_RELATIVE_ACCURACY,
    Counts,
    LatencyWindow,
    ServingStats,
    ServingWindow,
)
from mailboat_agent.telemetry.detail import REQUESTS_MIN, Signs
from mailboat_agent.update.events import milliseconds
from mailboat_schemas.documents.serving_policy import Workload
from mailboat_schemas.reports import LatencySketch, TelemetryWindow

if TYPE_CHECKING:
    from mailboat_agent.telemetry.host import Host  # brings psutil

BINS_MAX = 4096  # of the contract; the lowest buckets are collapsed beyond it
STAYS_KEPT_MAX = 256  # releases whose last counters are remembered


NEWEST_WEIGHT = 0.2  # of the newest window, in what the p95 of a release is expected to be


@dataclass(slots=True)
class _Seen:
    """Counters at the last drain, and at the last glance."""

    by_workload: dict[Workload, Counts] = field(default_factory=dict)
    worker_restarts: int = 0
    glanced: tuple[int, int, int, int] = (0, 0, 0, 0)  # ok, error, refused, restarts
    usual_p95_ms: float | None = None
    compared_p95_ms: tuple[float, float] | None = None  # of the last window, and usual before it

    def compare(self, p95_ms: float) -> None:
        usual = self.usual_p95_ms
        if usual is None:
            self.usual_p95_ms = p95_ms
        else:
            self.compared_p95_ms = (p95_ms, usual)
            self.usual_p95_ms = usual + NEWEST_WEIGHT * (p95_ms - usual)


class Telemetry:
    """`drain` at the end of every window. One caller; what it takes out of the runtime is gone."""

    def __init__(
        self,
        runtime: Runtime,
        journal: Journal,
        now: datetime,
        degraded: Callable[[str], Mapping[str, int]] = lambda _: {},
        host: "Host | None" = None,
    ) -> None:
        """``degraded`` gives a model's degraded answers since it was last asked, by mode."""
        self._runtime = runtime
        self._degraded = degraded
        self._untold: dict[str, Counter[str]] = {}  # degraded answers that are in no window yet
        self._live = LiveWindows(runtime.live)
        self._journal = journal
        self._host = host
        self._began = now
        self._seen: dict[tuple[str, int], _Seen] = {}  # by model and stay

    def glance(self, models: Iterable[str]) -> Iterator[Signs]:
        """How each release does since the last glance, without taking anything away."""
        for model in models:
            stats = self._runtime.snapshot(model)
            if stats is None:
                continue
            seen = self._seen_of(stats)
            now = (
                stats.requests_ok,
                stats.requests_error,
                stats.requests_refused,
                stats.worker_restarts,
            )
            ok, error, refused, restarts = (a - b for a, b in zip(now, seen.glanced, strict=True))
            seen.glanced = now
            compared, seen.compared_p95_ms = seen.compared_p95_ms, None  # it speaks once
            yield Signs(
                ok=ok,
                error=error,
                refused=refused,
                worker_restarts=restarts,
                p95_ms=None if compared is None else compared[0],
                p95_before_ms=None if compared is None else compared[1],
            )

    def drain(self, models: Iterable[str], now: datetime, seconds: float) -> int:
        """Write one window per model, release and workload, or one of the machine alone; returns
        how many.

        Args:
            seconds: since the last one that was written, by a monotonic clock.

        Raises:
            DiskFull, DiskFailing: this window becomes a part of the next, but for its latencies.
        """
        began = self._began
        models = list(models)
        drained = [item for model in models for item in self._runtime.drain_window(model)]
        for model in models:
            self._live.take(model, began)
        count = 0
        for item in drained:
            for window in self._windows(item, began, seconds):
                self._tell(item.stats, window)
                count += 1
            if item.latency.count >= REQUESTS_MIN:
                p95_ms = item.latency.quantile_ms(0.95)
                self._seen_of(item.stats).compare(0.0 if p95_ms is None else p95_ms)
        served = {item.stats.model for item in drained}
        count += sum(self._tell_unserved(m, began, seconds) for m in models if m not in served)
        for window in (rest := self._live.rest(seconds)):
            self._record(window)
            self._live.told(window)
        written = count + len(rest) or self._tell_machine(began, seconds)
        self._began = now
        return written

    def _tell_machine(self, began: datetime, seconds: float) -> int:
        """Of a device that serves nothing it is known how it is all the same."""
        if self._host is None or not self._host.was_sampled:
            return 0
        self._record(
            TelemetryWindow(
                sequence=1,  # the journal gives the real one
                started_at=milliseconds(began),
                seconds=seconds,
                requests_ok=0,
                requests_error=0,
            )
        )
        return 1

    def _tell_unserved(self, model: str, began: datetime, seconds: float) -> int:
        """Degraded answers while no release served, as those of the one that should have."""
        degraded = self._untold.setdefault(model, Counter())
        degraded.update(self._degraded(model))
        absence = self._runtime.absences().get(model) if degraded else None
        if absence is None or not absence.digest:
            return 0
        window = TelemetryWindow(
            sequence=1,  # the journal gives the real one
            model=model,
            version=absence.version,
            digest=absence.digest,
            started_at=milliseconds(began),
            seconds=seconds,
            requests_ok=0,
            requests_error=0,
            degraded=dict(degraded),
        )
        self._record(window)
        del self._untold[model]
        return 1

    def _tell(self, stats: ServingStats, window: TelemetryWindow) -> None:
        """What has been written is remembered at once: the next window may meet a full disk."""
        seen, workload = self._seen_of(stats), window.workload or stats.workload
        is_first = workload is stats.workload
        if is_first:
            degraded = self._untold.setdefault(stats.model, Counter())
            degraded.update(self._degraded(stats.model))
            window = self._live.put_into(window)
            window = window.model_copy(update={"degraded": dict(degraded)})
        self._record(window)
        seen.by_workload[workload] = stats.by_workload.get(workload, Counts())
        if is_first:
            seen.worker_restarts = stats.worker_restarts
            self._live.told(window)
            del self._untold[stats.model]

    def _record(self, window: TelemetryWindow) -> None:
        """The first of a drain tells of the machine too."""
        host = None if self._host is None else self._host.take()
        try:
            self._journal.record_window(window.model_copy(update={"host": host}))
        except Exception:
            if self._host is not None:
                self._host.put_back(host)
            raise

    def _windows(
        self, item: ServingWindow, began: datetime, seconds: float
    ) -> list[TelemetryWindow]:
        """That of the release's own workload first, and one for each other that was asked for."""
        stats = item.stats
        before = self._seen_of(stats)
        others = [each for each in stats.by_workload if each is not stats.workload]
        windows = []
        for workload in (stats.workload, *others):
            now = stats.by_workload.get(workload, Counts())
            then = before.by_workload.get(workload, Counts())
            if workload is not stats.workload and now == then:
                continue
            windows.append(
                TelemetryWindow(
                    sequence=1,  # the journal gives the real one
                    model=stats.model,
                    version=stats.version,
                    digest=stats.digest,
                    started_at=milliseconds(began),
                    seconds=seconds,
                    workload=workload,
                    requests_ok=now.ok - then.ok,
                    requests_error=now.error - then.error,
                    requests_refused=now.refused - then.refused,
                    latency=sketch_by_value(item.latencies.get(workload, LatencyWindow())),
                )
            )
        # What the process of the release did is told once.
        windows[0] = windows[0].model_copy(
            update={
                "worker_restarts": stats.worker_restarts - before.worker_restarts,
                "peak_memory_bytes": stats.peak_memory_bytes,
                "last_ok_at": None if stats.last_ok_at is None else milliseconds(stats.last_ok_at),
            }
        )
        return windows

    def _seen_of(self, stats: ServingStats) -> _Seen:
        key = (stats.model, stats.serial)
        seen = self._seen.pop(key, None) or _Seen()
        self._seen[key] = seen  # the last that was looked at is forgotten last
        while len(self._seen) > STAYS_KEPT_MAX:
            self._seen.pop(next(iter(self._seen)))
        return seen


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
