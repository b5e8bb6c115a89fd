"""Live answers come first: whether what runs beside them slows them down. Pure."""

from collections import deque

LATENCIES_MIN = 20  # below that a p95 is one value
LATENCIES_MAX = 100  # the newest, of which the p95 is taken
CHECK_EVERY = 10  # answers: a p95 costs more than counting
SLACK_MS = 1.0  # of answers so quick that their p95 doubles by itself
PAUSE_SECONDS = 2.0
PAUSE_SECONDS_MAX = 60.0


class LiveGuard:
    """Told of every live answer. Once p95 has risen too far it asks for a pause, each twice as long
    as the last; after it, everything is measured anew."""

    def __init__(self, *, before_p95_ms: float | None, ratio_max: float) -> None:
        """``before_p95_ms`` was measured with nothing beside; None: that is still to be done."""
        self._before_p95_ms = before_p95_ms
        self._ratio_max = ratio_max
        self._latencies_ms: deque[float] = deque(maxlen=LATENCIES_MAX)
        self._since_check = 0
        self._paused_until = 0.0
        self.pauses = 0

    def saw(self, latency_ms: float, monotonic: float) -> None:
        if monotonic < self._paused_until:
            return
        self._latencies_ms.append(latency_ms)
        self._since_check += 1
        if self._since_check < CHECK_EVERY or len(self._latencies_ms) < LATENCIES_MIN:
            return
        self._since_check = 0
        p95_ms = self._p95_ms()
        if self._before_p95_ms is None:
            self._before_p95_ms = p95_ms
            self._latencies_ms.clear()
        elif p95_ms > self._before_p95_ms * self._ratio_max + SLACK_MS:
            pause_seconds = min(PAUSE_SECONDS * 2.0**self.pauses, PAUSE_SECONDS_MAX)
            self._paused_until = monotonic + pause_seconds
            self.pauses = min(self.pauses + 1, 1000)
            self._latencies_ms.clear()

    def allows(self, monotonic: float) -> bool:
        """Whether a request may be mirrored now."""
        return self._before_p95_ms is not None and monotonic >= self._paused_until

    def _p95_ms(self) -> float:
        ordered = sorted(self._latencies_ms)
        return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
