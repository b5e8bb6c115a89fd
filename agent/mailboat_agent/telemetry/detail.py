"""How long a window is: shorter where something goes wrong, longer where every byte costs. Pure.

A breach shows in windows of seconds what one of a minute averages away. Detail has a budget, so
that a release that is never well does not push everything else out of the buffer.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

FINE_PARTS = 6  # of a normal window: ten seconds of a minute
COARSE_FACTOR = 10  # normal windows in one, on a metered link
WINDOW_SECONDS_MIN, WINDOW_SECONDS_MAX = 0.05, 86_400.0
FINE_SECONDS = 600.0  # of detail after the last sign of trouble
FINE_SECONDS_PER_DAY = 3600.0  # then it waits for the next day, however bad it is
DAY_SECONDS = 86_400.0
ERROR_RATE_MIN = 0.01  # of requests, that is trouble
REFUSED_RATE_MIN = 0.05
LATENCY_RATIO_MIN = 2.0  # p95 over what it was
LATENCY_SLACK_MS = 5.0  # of latencies so short that they double by themselves
REQUESTS_MIN = 20  # of a window; below that its p95 is one value


class Detail(StrEnum):
    FINE = "fine"
    NORMAL = "normal"
    COARSE = "coarse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """Of one release, since the last look. Latencies in milliseconds, of a window with at least
    `REQUESTS_MIN` answers; None: there was none."""

    ok: int = 0
    error: int = 0
    refused: int = 0
    worker_restarts: int = 0
    p95_ms: float | None = None
    p95_before_ms: float | None = None


def is_trouble(signs: Signs) -> bool:
    """Whether somebody will want to know what happened here second by second."""
    asked = signs.ok + signs.error + signs.refused
    if signs.worker_restarts:
        return True
    if signs.error and signs.error >= ERROR_RATE_MIN * asked:
        return True
    if signs.refused and signs.refused >= REFUSED_RATE_MIN * asked:
        return True
    if signs.p95_ms is None or signs.p95_before_ms is None:
        return False
    return signs.p95_ms > LATENCY_RATIO_MIN * signs.p95_before_ms + LATENCY_SLACK_MS


def window_seconds(detail: Detail, normal_seconds: float) -> float:
    match detail:
        case Detail.FINE:
            seconds = normal_seconds / FINE_PARTS
        case Detail.NORMAL:
            seconds = normal_seconds
        case Detail.COARSE:
            seconds = normal_seconds * COARSE_FACTOR
        case _:
            assert_never(detail)
    return min(max(seconds, WINDOW_SECONDS_MIN), WINDOW_SECONDS_MAX)


class DetailWatch:
    """Told at every look; ``monotonic`` in seconds."""

    def __init__(self) -> None:
        self._fine_until = float("-inf")
        self._left_seconds = FINE_SECONDS_PER_DAY
        self._looked_at: float | None = None
        self._was_fine = False

    def look(self, *, trouble: bool, metered: bool, monotonic: float) -> Detail:
        since = 0.0 if self._looked_at is None else max(0.0, monotonic - self._looked_at)
        self._looked_at = monotonic
        if self._was_fine:
            self._left_seconds -= since
        else:
            gained = since * FINE_SECONDS_PER_DAY / DAY_SECONDS
            self._left_seconds = min(FINE_SECONDS_PER_DAY, self._left_seconds + gained)
        if trouble:
            self._fine_until = monotonic + FINE_SECONDS
        self._was_fine = monotonic < self._fine_until and self._left_seconds > 0
        if self._was_fine:
            # A metered link gets what others get without trouble.
            return Detail.NORMAL if metered else Detail.FINE
        return Detail.COARSE if metered else Detail.NORMAL
