"""How long to wait before trying again, and when to give up."""

import random

from mailboat_schemas.events import EventKind
from mailboat_schemas.reports import ModelPhase

RETRY_SECONDS_MIN = 1.0
RETRY_SECONDS_MAX = 300.0
LOAD_ATTEMPTS_MAX = 3  # at a release that passed its trial, before that is a verdict on it
COMMITTED_LOAD_ATTEMPTS_MAX = 10  # at one that has served here: some ten minutes


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


def left_as(phase: ModelPhase, *, attempts: int, rejected: bool) -> EventKind | None:
    """What to call it when a release that cannot be loaded is left for its predecessor.

    None while it is to be tried again. ``rejected`` is the runtime's own no, which ends the matter.
    """
    match phase:
        case ModelPhase.TRIAL:
            return EventKind.TRIAL_FAILED if rejected or attempts >= LOAD_ATTEMPTS_MAX else None
        case ModelPhase.SOAK:
            return EventKind.ROLLED_BACK if rejected or attempts >= LOAD_ATTEMPTS_MAX else None
        case ModelPhase.COMMITTED:
            # It has served here, so it is no verdict: the runtime may be another one by now.
            given_up = rejected or attempts >= COMMITTED_LOAD_ATTEMPTS_MAX
            return EventKind.RETURNED if given_up else None
        case ModelPhase.ABSENT | ModelPhase.STAGING:
            return None
