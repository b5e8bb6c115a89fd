"""The devices' latency sketches as classic Prometheus buckets, the same for the whole fleet.

Bounds are five to a decade, so a quantile taken from them (`histogram_quantile`) is never further
from the true one than one bound from the next, a factor of 1.6; counts beside a bound may be on its
wrong side by the sketch's own accuracy, one per cent. Merging adds nothing to either.

Source of the sketch: Masson, Rim, Lee, "DDSketch", VLDB 2019, section 2.1.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from functools import lru_cache

from mailboat_schemas.reports import LatencySketch

BOUNDS_SECONDS = tuple(float(f"{10 ** (n / 5):.2g}") for n in range(-20, 8))  # 0.1 ms to 25 s
BEYOND = "+Inf"
PARTS = (*map(str, BOUNDS_SECONDS), BEYOND)
COUNT_MAX = 1e9  # in one bucket of one window; a device may say anything
SUM_SECONDS_MAX = 1e9
_LOG_BOUNDS_MS = tuple(math.log(bound * 1000) for bound in BOUNDS_SECONDS)


def counts(sketch: LatencySketch) -> dict[str, float]:
    """How many of its latencies lie in each bucket, by the bucket's upper bound."""
    found: dict[str, float] = {}
    accuracy = sketch.relative_accuracy
    for index, count in enumerate(sketch.bins, start=sketch.offset):
        if count > 0:
            part = _part(accuracy, index)
            found[part] = found.get(part, 0.0) + min(float(count), COUNT_MAX)
    if sketch.zero_count:
        found[PARTS[0]] = found.get(PARTS[0], 0.0) + min(float(sketch.zero_count), COUNT_MAX)
    return found


def sum_seconds(sketch: LatencySketch) -> float:
    seconds = sketch.sum_ms / 1000
    return min(max(seconds, 0.0), SUM_SECONDS_MAX) if math.isfinite(seconds) else 0.0


def cumulative(found: Mapping[str, float], parts: tuple[str, ...]) -> list[tuple[str, float]]:
    """As an exposition wants them: each bucket with all below it."""
    total, rows = 0.0, []
    for part in parts:
        total += found.get(part, 0.0)
        rows.append((part, total))
    return rows


def quantile_seconds(
    found: Mapping[str, float], quantile: float, bounds: tuple[float, ...] = BOUNDS_SECONDS
) -> float | None:
    """As `histogram_quantile` has it: straight within a bucket, its lower bound beyond the last."""
    wanted, below, low = quantile * sum(found.values()), 0.0, 0.0
    if wanted <= 0:
        return None
    for bound in bounds:
        here = found.get(str(bound), 0.0)
        if here and below + here >= wanted:
            return low + (bound - low) * (wanted - below) / here
        below, low = below + here, bound
    return bounds[-1]


@lru_cache(maxsize=8192)
def _part(accuracy: float, index: int) -> str:
    """The bucket of a sketch's bin: it stands for the middle of gamma^(index-1) and gamma^index."""
    log_gamma = math.log1p(accuracy) - math.log1p(-accuracy)
    log_ms = index * log_gamma + math.log1p(-accuracy)
    return PARTS[bisect_left(_LOG_BOUNDS_MS, log_ms)]
