"""Counts and latencies of one release while it serves, safe between threads.

Counters only grow, so whoever reports them takes differences and loses nothing by asking twice.
Latencies are also kept per window, in a sketch that is swapped out when the window is drained.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from ddsketch import DDSketch

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingStats:
    """Since this release began to serve. ``serial`` tells two stays of the same release apart."""

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
    """One release since the last drain. ``stats`` are cumulative, ``latency`` is of the window."""

    stats: ServingStats
    latency: LatencyWindow


class ServingCounters:
    """Written by the threads that serve, read by the agent's main thread."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._total = LatencyWindow()
        self._window = LatencyWindow()
        self.began_at = clock()
        self.ok = 0
        self.error = 0
        self.refused = 0
        self.restarts = 0
        self.last_ok_at: datetime | None = None

    def count_ok(self, latency_ms: float) -> None:
        with self._lock:
            self.ok += 1
            self.last_ok_at = self._clock()
            self._total.add(latency_ms)
            self._window.add(latency_ms)

    def count_error(self) -> None:
        with self._lock:
            self.error += 1

    def count_refused(self) -> None:
        with self._lock:
            self.refused += 1

    def count_restart(self) -> None:
        with self._lock:
            self.restarts += 1

    def swap_window(self) -> LatencyWindow:
        with self._lock:
            window, self._window = self._window, LatencyWindow()
        return window

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
            )
