"""The figures of the KPI page, from what is read of the fleet for its metrics. Pure."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mailboat_controller.access.people import PEOPLE
from mailboat_controller.ingest.fleet_figures import RECOVERY_BOUNDS_SECONDS
from mailboat_controller.metrics import latency_buckets
from mailboat_controller.metrics.fleet_state import FleetState
from mailboat_controller.rollout.state import Phase, Trigger
from mailboat_controller.store.audit import AuditRow

INTERVENTIONS_SHOWN_MAX = 20
# Entries that no person made, about a rollout that went by itself, or stopped by itself.
COMPLETED = f"rollout.{Phase.COMPLETED.value}"
HALTED = f"rollout.{Phase.HALTED.value}"
_ORDERS = {
    f"rollout.{each.value}"
    for each in (Trigger.PROMOTE, Trigger.PAUSE, Trigger.RESUME, Trigger.ABORT, Trigger.UNDO)
}


@dataclass(kw_only=True)
class ReleaseFigures:
    """``recovery``: buckets of seconds from a failure until the predecessor served again."""

    model: str
    version: str
    serving: int = 0
    ok: int = 0
    failed: int = 0
    others: int = 0  # refused, under way, or back without a verdict
    fetched_bytes: int = 0
    recovery: Counter[str] = field(default_factory=Counter)

    @property
    def verdicts(self) -> int:
        return self.ok + self.failed

    def recovery_seconds(self, quantile: float) -> float | None:
        return latency_buckets.quantile_seconds(self.recovery, quantile, RECOVERY_BOUNDS_SECONDS)


@dataclass(kw_only=True)
class Day:
    at: datetime
    completed: int = 0
    halted: int = 0
    orders: int = 0  # of people: promote, pause, resume, abort, undo


def by_release(state: FleetState) -> tuple[ReleaseFigures, ...]:
    """Of those that are counted (docs/dashboards.md), by model, the newest name first."""
    found: dict[tuple[str, str], ReleaseFigures] = {}

    def of(model: str, version: str) -> ReleaseFigures:
        key = (model, version)
        return found.setdefault(key, ReleaseFigures(model=model, version=version))

    for outcome in state.outcomes:
        figures = of(outcome.model, outcome.version)
        place = outcome.outcome if outcome.outcome in ("ok", "failed") else "others"
        setattr(figures, place, getattr(figures, place) + outcome.devices)
    for each in state.serving:
        of(each.model, each.version).serving += each.devices
    for came in state.deliveries:
        of(came.model, came.version).fetched_bytes += came.fetched_bytes
    for row in state.sums:
        if row.figure == "recovery" and row.model:
            of(row.model, row.version).recovery[row.part] += round(row.amount)
    ordered = sorted(found.values(), key=lambda each: each.version, reverse=True)
    return tuple(sorted(ordered, key=lambda each: each.model))


def interventions(state: FleetState) -> tuple[tuple[str, str, int], ...]:
    """(action, kind of person, how often), the most frequent first."""
    people = set(map(str, PEOPLE))
    found = [
        (action, actor, entries)
        for (action, actor), entries in state.audit.items()
        if actor in people
    ]
    found.sort(key=lambda each: (-each[2], each))
    return tuple(found[:INTERVENTIONS_SHOWN_MAX])


def by_day(rows: Iterable[AuditRow], since: datetime, now: datetime) -> tuple[Day, ...]:
    """Every day from ``since`` on, also those on which nothing happened."""
    days = [Day(at=since + timedelta(days=n)) for n in range((now - since).days + 1)]
    for row in rows:
        index = (row.at - since).days
        if not 0 <= index < len(days):
            continue
        day = days[index]
        day.completed += row.action == COMPLETED
        day.halted += row.action == HALTED
        day.orders += row.action in _ORDERS
    return tuple(days)
