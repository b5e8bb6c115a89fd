"""How long to wait before trying again."""

import random

RETRY_SECONDS_MIN = 1.0
RETRY_SECONDS_MAX = 300.0


def retry_delay_seconds(
    attempt: int,
    rng: random.Random,
    *,
    seconds_min: float = RETRY_SECONDS_MIN,
    seconds_max: float = RETRY_SECONDS_MAX,
) -> float:
    """Exponential backoff with full jitter: between 0 and ``seconds_min`` doubled ``attempt``
    times, at most ``seconds_max``.

    Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    doublings = min(attempt, 30)  # keeps the arithmetic in range
    return min(seconds_max, seconds_min * (1 << doublings)) * rng.random()


class Backoff:
    """When to try something again. A success forgets the past. Times are of a monotonic clock."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._not_before = 0.0
        self.attempts = 0

    def allows(self, now: float) -> bool:
        return now >= self._not_before

    def failed(self, now: float, hint_seconds: float = 0.0) -> None:
        """``hint_seconds`` is the least to wait, where the other side has said so."""
        delay_seconds = retry_delay_seconds(self.attempts, self._rng)
        self.attempts += 1
        self._not_before = now + max(delay_seconds, hint_seconds)

    def forget(self) -> None:
        self.attempts, self._not_before = 0, 0.0
