"""How often others can make this device tell something: a burst, then one now and then. Pure.

State events are never dropped, so whoever writes to this device's topics could fill its journal.
"""


class Allowance:
    """A token bucket. Times are seconds of any clock; one that jumps gives a burst at most."""

    def __init__(self, *, burst: int, seconds_each: float) -> None:
        self._burst = burst
        self._seconds_each = seconds_each
        self._left = float(burst)
        self._asked_at: float | None = None
        self.withheld = 0  # since the last that was let through

    def take(self, at: float) -> bool:
        """Whether one more may be told."""
        passed = 0.0 if self._asked_at is None else max(0.0, at - self._asked_at)
        self._asked_at = at
        self._left = min(self._burst, self._left + passed / self._seconds_each)
        if self._left < 1:
            self.withheld += 1
            return False
        self._left -= 1
        return True
