"""Token buckets: how often somebody may ask. In memory, and bounded: a restart forgives."""

import ipaddress
import threading
from collections import OrderedDict

from mailboat_schemas.errors import ServerUnavailable

# Of each table. Above it the one that was idle longest is forgotten, which makes it a full bucket:
# an attacker with that many addresses gains what new addresses would bring anyway.
BUCKETS_MAX = 20_000
IPV6_PREFIX_BITS = 64  # the least that anybody is given


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


class AuditBound:
    """How many refusals of one sender are written down: the log is never emptied, so whoever is
    refused as fast as they can ask would fill the disk with it. Safe to use from many threads."""

    def __init__(self, *, per_minute: float) -> None:
        self._buckets = Buckets(per_second=per_minute / 60, burst=per_minute)
        self._lock = threading.Lock()
        self._left_out = 0

    def details(self, sender: str, now_seconds: float) -> dict[str, int] | None:
        """What to add to the entry: how many were left out before it. None: leave it out.

        ``now_seconds`` is of a monotonic clock.
        """
        with self._lock:
            if self._buckets.take(sender, now_seconds):
                self._left_out += 1
                return None
            left_out, self._left_out = self._left_out, 0
        return {"left_out_before": left_out} if left_out else {}


def network_of(address: str) -> str:
    """What is counted as one: an IPv4 address, or an IPv6 network."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, IPV6_PREFIX_BITS), strict=False))
    return address
