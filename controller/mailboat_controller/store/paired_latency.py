"""One bit a device: is it slower with a release than it was before, by its own telemetry?"""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select

from mailboat_controller.store import tables
from mailboat_controller.store.devices import NAMES_AT_ONCE
from mailboat_controller.store.instants import to_ms

BEFORE_MAX = timedelta(days=7)  # of windows of the releases before
REQUESTS_MIN = 20  # on either side, or there is no bit
QUANTILE = 0.95
LOG_MS_MAX = 30.0  # e to the 30 milliseconds are three centuries
_WINDOWS, _HOURS = 0, 1  # levels of the telemetry table that still are of one device

Latencies = dict[float, int]  # milliseconds, rounded by the sketch -> requests


def slow_devices(
    tx: Connection,
    model: str,
    digest: str,
    names: Sequence[str],
    *,
    since: datetime,
    ratio: float,
) -> dict[str, bool]:
    """Which of these devices have a p95 above ``ratio`` times that of the releases before; those
    with too few requests on either side are left out.

    Args:
        since: when the rollout began; the release's windows are younger.
    """
    c = tables.telemetry.c
    after: dict[str, Latencies] = {}
    before: dict[str, Latencies] = {}
    for first in range(0, len(names), NAMES_AT_ONCE):
        query = select(c.device, c.digest, c.content["latency"]).where(
            c.level.in_((_WINDOWS, _HOURS)),
            c.began_at >= to_ms(since - BEFORE_MAX),
            c.device.in_(names[first : first + NAMES_AT_ONCE]),
            c.model == model,
        )
        for device, told, sketch in tx.execute(query):
            if sketch is not None:
                side = after if told == digest else before
                add_sketch(side.setdefault(device, {}), sketch)
    found = {}
    for device, latencies in after.items():
        now_ms, then_ms = p95_ms(latencies), p95_ms(before.get(device, {}))
        if now_ms is not None and then_ms is not None:
            found[device] = now_ms > ratio * then_ms
    return found


def p95_ms(latencies: Mapping[float, int]) -> float | None:
    """None of fewer than `REQUESTS_MIN` requests."""
    if sum(latencies.values()) < REQUESTS_MIN:
        return None
    return quantile_ms(latencies, QUANTILE)


def quantile_ms(latencies: Mapping[float, int], quantile: float) -> float | None:
    """The smallest that so large a share of the requests did not exceed; None without any."""
    total, below = sum(latencies.values()), 0
    for value in sorted(latencies):
        below += latencies[value]
        if below >= quantile * total:
            return value
    return None


def add_sketch(latencies: Latencies, sketch: Mapping[str, Any]) -> None:
    accuracy = float(sketch["relative_accuracy"])
    log_gamma = math.log1p(accuracy) - math.log1p(-accuracy)
    for index, count in _bins(sketch):
        # The middle of the bin, as the sketch has it; a device may say anything.
        log_ms = max(-LOG_MS_MAX, min(index * log_gamma + math.log1p(-accuracy), LOG_MS_MAX))
        value = round(math.exp(log_ms), 6)
        latencies[value] = latencies.get(value, 0) + count
    if sketch["zero_count"]:
        latencies[0.0] = latencies.get(0.0, 0) + int(sketch["zero_count"])


def _bins(sketch: Mapping[str, Any]) -> Iterable[tuple[int, int]]:
    bins = enumerate(sketch["bins"], start=int(sketch["offset"]))
    return ((index, int(count)) for index, count in bins if count > 0)
