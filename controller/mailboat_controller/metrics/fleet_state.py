"""How the fleet stands, read from the database now and then: for `/metrics` and live panels alike.

Reading it costs a pass over the devices, so whoever asks gets what was read lately; no more than a
twentieth of the time goes into reading.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mailboat_controller.store import (
    class_counts,
    deployed,
    drills,
    fleet_counts,
    fleet_sums,
    rollouts,
)
from mailboat_controller.store.class_counts import StaleCount
from mailboat_controller.store.deployed import Deployed
from mailboat_controller.store.drills import DrillCount
from mailboat_controller.store.fleet_counts import CanaryRow, DeliverySum, OutcomeCount, SiteCount
from mailboat_controller.store.fleet_sums import SumRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.documents.hardware_class import WhenDisconnected

DRILLED_LATELY = timedelta(days=30)
KEPT_SECONDS_MIN = 5.0
REST_FACTOR = 19.0  # kept for so many times as long as it took


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """What a class should serve of a model, and how many of its devices do."""

    hardware_class: str
    model: str
    version: str
    devices: int
    current: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetState:
    read_at: datetime
    serving: tuple[Deployed, ...]
    assigned: tuple[Assigned, ...]
    outcomes: tuple[OutcomeCount, ...]
    deliveries: tuple[DeliverySum, ...]
    manifest_current: Mapping[tuple[str, str], int]  # by class and presence
    sites: tuple[SiteCount, ...]
    sums: tuple[SumRow, ...]
    left_out: int  # groups of sums
    audit: Mapping[tuple[str, str], int]  # entries by action and kind of actor
    canaries: tuple[CanaryRow, ...]
    drills: tuple[DrillCount, ...] = ()
    stale: tuple[StaleCount, ...] = ()
    when_disconnected: Mapping[str, WhenDisconnected] = field(default_factory=dict)  # by class


class FleetReader:
    """Called by one thread at a time."""

    def __init__(
        self,
        canaries: Sequence[str] = (),
        *,
        elapsed_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._canaries = tuple(canaries)
        self._elapsed = elapsed_seconds
        self._state: FleetState | None = None
        self._fresh_until = 0.0
        self._audit: Counter[tuple[str, str]] = Counter()
        self._audited = 0

    @property
    def latest(self) -> FleetState | None:
        """None until it has been read once."""
        return self._state

    def read(self, tx: Transaction, now: datetime) -> FleetState:
        """What was read lately, or anew."""
        started = self._elapsed()
        if self._state is not None and started < self._fresh_until:
            return self._state
        self._state = self._read(tx, now)
        took_seconds = self._elapsed() - started
        self._fresh_until = started + max(KEPT_SECONDS_MIN, (1 + REST_FACTOR) * took_seconds)
        return self._state

    def _read(self, tx: Transaction, now: datetime) -> FleetState:
        serving = deployed.count(tx)
        sums, left_out = fleet_sums.read(tx)
        counted, self._audited = fleet_counts.audited(tx, after=self._audited)
        self._audit.update({(each.action, each.actor): each.entries for each in counted})
        return FleetState(
            read_at=now,
            serving=serving,
            assigned=_assigned(tx, serving),
            outcomes=fleet_counts.outcomes(tx, now),
            deliveries=fleet_counts.came(tx, now),
            manifest_current=fleet_counts.manifest_current(tx),
            sites=fleet_counts.by_site(tx, now),
            sums=tuple(sums),
            left_out=left_out,
            audit=dict(self._audit),
            canaries=fleet_counts.canaries(tx, self._canaries) if self._canaries else (),
            drills=drills.counts(tx, now, DRILLED_LATELY),
            stale=class_counts.stale(tx, now - fleet_counts.SAID_FOR),
            when_disconnected=class_counts.when_disconnected(tx),
        )


def _assigned(tx: Transaction, serving: Sequence[Deployed]) -> tuple[Assigned, ...]:
    live = deployed.live_by_class(tx)
    counts = {(each.hardware_class, each.digest): each.devices for each in serving}
    return tuple(
        Assigned(
            hardware_class=row.hardware_class,
            model=row.model,
            version=row.current.version,
            devices=live.get(row.hardware_class, 0),
            current=counts.get((row.hardware_class, row.current.digest), 0),
        )
        for row in rollouts.assignments(tx)
        if row.current is not None
    )
