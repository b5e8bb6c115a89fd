"""One device's telemetry of a time, as points to draw: counts, latencies, memory, by our clock."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select

from mailboat_controller.store import paired_latency, tables
from mailboat_controller.store.instants import from_ms, to_ms

POINTS_MAX = 240  # as many as a plot of a page shows apart
WINDOWS_READ_MAX = 5000  # the newest of the time; a day of minutes and three workloads is 4320
_telemetry = tables.telemetry


@dataclass(kw_only=True)
class Point:
    """Windows that began within one part of the time, of every workload."""

    at: datetime
    ok: int = 0
    error: int = 0
    refused: int = 0
    restarts: int = 0
    peak_memory_bytes: int = 0
    latencies: dict[float, int] = field(default_factory=dict)  # milliseconds -> requests

    def latency_ms(self, quantile: float) -> float | None:
        return paired_latency.quantile_ms(self.latencies, quantile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """``models``: those that any window of the time is of."""

    points: tuple[Point, ...]
    models: tuple[str, ...]
    cut_off: bool  # there were more than are read: the older ones are missing


def of_device(
    tx: Connection, device: str, *, since: datetime, until: datetime, model: str | None = None
) -> Windows:
    """Oldest first, at most `POINTS_MAX`.

    Args:
        model: its windows alone; None: those of all, added up.
    """
    c = _telemetry.c
    rows = tx.execute(
        select(c.model, c.began_at, c.content)
        .where(c.level.in_((0, 1, 2)), c.began_at >= to_ms(since), c.began_at < to_ms(until))
        .where(c.device == device)
        .order_by(c.began_at.desc())
        .limit(WINDOWS_READ_MAX)
    ).fetchall()
    step_ms = max(1, int((until - since) / timedelta(milliseconds=1)) // POINTS_MAX)
    points: dict[int, Point] = {}
    for row in reversed(rows):
        if model is not None and row.model != model:
            continue
        slot = (row.began_at - to_ms(since)) // step_ms
        # Where only a few windows fall, the first one's own time says more than the slot's.
        point = points.setdefault(slot, Point(at=from_ms(row.began_at)))
        _add(point, row.content)
    return Windows(
        points=tuple(points[slot] for slot in sorted(points)),
        models=tuple(sorted({row.model for row in rows if row.model})),
        cut_off=len(rows) == WINDOWS_READ_MAX,
    )


def _add(point: Point, content: Mapping[str, Any]) -> None:
    point.ok += content["requests_ok"]
    point.error += content["requests_error"]
    point.refused += content.get("requests_refused", 0)
    point.restarts += content.get("worker_restarts", 0)
    point.peak_memory_bytes = max(point.peak_memory_bytes, content.get("peak_memory_bytes", 0))
    sketch = content.get("latency")
    if sketch is not None:
        paired_latency.add_sketch(point.latencies, sketch)
