"""Token buckets: how often somebody may ask. In memory, and bounded: a restart forgives."""

from collections import OrderedDict

from mailboat_schemas.errors import ServerUnavailable

# Of each table. Above it the one that was idle longest is forgotten, which makes it a full bucket:
# an attacker with that many addresses gains what new addresses would bring anyway.
BUCKETS_MAX = 20_000


class RateLimited(ServerUnavailable):
    code = "E-RATE-LIMITED"


class Buckets:
    """A bucket for every key: ``burst`` at once, then ``per_second``. For one thread."""

    def __init__(self, *, per_second: float, burst: float, buckets_max: int = BUCKETS_MAX) -> None:
        self._per_second = per_second
        self._burst = burst
        self._buckets_max = buckets_max
        # key -> (what is left, when that was so); in the order of last use
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, now_seconds: float) -> float:
        """Take one; returns 0.0, or in how many seconds there will be one again.

        ``now_seconds`` is of a monotonic clock.
        """
        left, seen = self._buckets.pop(key, (self._burst, now_seconds))
        left = min(self._burst, left + (now_seconds - seen) * self._per_second)
        allowed = left >= 1.0
        self._buckets[key] = (left - 1.0 if allowed else left, now_seconds)
        if len(self._buckets) > self._buckets_max:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1.0 - left) / self._per_second
