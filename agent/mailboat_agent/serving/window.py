"""Counts and latencies of one release while it serves, safe between threads.

Counters only grow, so whoever reports them takes differences and loses nothing by asking twice.
Latencies are also kept per window, in a sketch that is swapped out when the window is drained.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from ddsketch import DDSketch

from mailboat_schemas.documents.serving_policy import Workload

LATENCY_RELATIVE_ACCURACY = 0.01  # fixed for the whole fleet: only equal sketches merge


@dataclass(slots=True)
class LatencyWindow:
    """Latencies in milliseconds. ``sketch`` answers quantiles within one per cent."""

    sketch: DDSketch = field(default_factory=lambda: DDSketch(LATENCY_RELATIVE_ACCURACY))
    count: int = 0
    sum_ms: float = 0.0

    def add(self, latency_ms: float) -> None:
        self.sketch.add(latency_ms)
        self.count += 1
        self.sum_ms += latency_ms

    def quantile_ms(self, quantile: float) -> float | None:
        """None while there is nothing to take it of."""
        if not self.count:
            return None
        value: float | None = self.sketch.get_quantile_value(quantile)
        return value


@dataclass(slots=True)
class Counts:
    """Of requests of one workload class."""

    ok: int = 0
    error: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingStats:
    """Since this release began to serve. ``serial`` tells two stays of the same release apart.

    Counts are of all requests; ``by_workload`` has the classes that were asked for.
    """

    model: str
    version: str
    digest: str
    serial: int
    began_at: datetime
    requests_ok: int
    requests_error: int  # the worker died or hung, onnxruntime raised, or the output cannot be said
    requests_refused: (
        int  # queue full, worker not ready, deadline passed while waiting: load, not fault
    )
    worker_restarts: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    last_ok_at: datetime | None
    peak_memory_bytes: int
    ready: bool
    errors_in_a_row: int = 0  # the newest requests, with no answer between them
    workload: Workload = Workload.REAL_TIME  # of requests that do not say
    by_workload: Mapping[Workload, Counts] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """Those that say something about the release."""
        return self.requests_ok + self.requests_error

    @property
    def error_rate(self) -> float | None:
        """None while nobody has asked: no traffic is not good traffic."""
        return self.requests_error / self.requests if self.requests else None


@dataclass(frozen=True, slots=True)
class ServingWindow:
    """One release since the last drain. ``stats`` are cumulative, ``latencies`` of the window."""

    stats: ServingStats
    latencies: Mapping[Workload, LatencyWindow]

    @property
    def latency(self) -> LatencyWindow:
        """Of requests of the release's own class."""
        return self.latencies.get(self.stats.workload, LatencyWindow())


class ServingCounters:
    """Written by the threads that serve, read by the agent's main thread."""

    def __init__(
        self, clock: Callable[[], datetime], workload: Workload = Workload.REAL_TIME
    ) -> None:
        """``workload`` is of requests that do not say."""
        self._clock = clock
        self._workload = workload
        self._lock = threading.Lock()
        self._total = LatencyWindow()
        self._windows: dict[Workload, LatencyWindow] = {}
        self._counts: dict[Workload, Counts] = {}
        self.began_at = clock()
        self.ok = 0
        self.error = 0
        self.errors_in_a_row = 0
        self.refused = 0
        self.restarts = 0
        self.last_ok_at: datetime | None = None

    def count_ok(self, latency_ms: float, workload: Workload | None = None) -> None:
        with self._lock:
            workload = workload or self._workload
            self._counts.setdefault(workload, Counts()).ok += 1
            self.ok += 1
            self.errors_in_a_row = 0
            self.last_ok_at = self._clock()
            self._total.add(latency_ms)
            window = self._windows.get(workload)
            if window is None:  # a sketch is not made for every request to be thrown away
                window = self._windows[workload] = LatencyWindow()
            window.add(latency_ms)

    def count_error(self, workload: Workload | None = None) -> None:
        with self._lock:
            workload = workload or self._workload
            self._counts.setdefault(workload, Counts()).error += 1
            self.error += 1
            self.errors_in_a_row += 1

    def count_refused(self, workload: Workload | None = None) -> None:
        with self._lock:
            workload = workload or self._workload
            self._counts.setdefault(workload, Counts()).refused += 1
            self.refused += 1

    def count_restart(self) -> None:
        with self._lock:
            self.restarts += 1

    def swap_windows(self) -> Mapping[Workload, LatencyWindow]:
        with self._lock:
            windows, self._windows = self._windows, {}
        return windows

    def stats(
        self,
        *,
        model: str,
        version: str,
        digest: str,
        serial: int,
        peak_memory_bytes: int,
        ready: bool,
    ) -> ServingStats:
        with self._lock:
            return ServingStats(
                model=model,
                version=version,
                digest=digest,
                serial=serial,
                began_at=self.began_at,
                requests_ok=self.ok,
                requests_error=self.error,
                requests_refused=self.refused,
                worker_restarts=self.restarts,
                latency_p50_ms=self._total.quantile_ms(0.50),
                latency_p95_ms=self._total.quantile_ms(0.95),
                last_ok_at=self.last_ok_at,
                peak_memory_bytes=peak_memory_bytes,
                ready=ready,
                errors_in_a_row=self.errors_in_a_row,
                workload=self._workload,
                by_workload={name: replace(each) for name, each in self._counts.items()},
            )
