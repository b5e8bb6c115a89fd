"""How releases came to devices: three outcomes, counted for each release and class.

A delivery is told with ``trial_started``, which is stored once, so each is counted once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from mailboat_controller.store import releases
from mailboat_controller.store.delta_tables import deliveries
from mailboat_controller.store.upsert import upsert
from mailboat_schemas.deltas import DeliveryOutcome, delivery_of
from mailboat_schemas.events import Event, EventKind

# A device may say anything; an honest one fetches no release more than a few times.
FETCHED_TIMES_MAX = 16

_c = deliveries.c


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryCount:
    """Sums over ``count`` deliveries; ``whole_bytes`` is what the releases have, file by file."""

    hardware_class: str
    outcome: DeliveryOutcome
    count: int
    fetched_bytes: int
    whole_bytes: int

    @property
    def saved_bytes(self) -> int:
        """Negative if patches failed and the files came whole after them."""
        return self.whole_bytes - self.fetched_bytes

    def to_json(self) -> dict[str, Any]:
        return {
            "hardware_class": self.hardware_class,
            "outcome": self.outcome.value,
            "count": self.count,
            "fetched_bytes": self.fetched_bytes,
            "whole_bytes": self.whole_bytes,
            "saved_bytes": self.saved_bytes,
        }


def fold(tx: Connection, hardware_class: str, events: Iterable[Event]) -> None:
    """Count what these events, never seen before, tell of deliveries to devices of a class."""
    came: dict[tuple[str, DeliveryOutcome], list[int]] = {}  # each fetched so many bytes
    for event in events:
        if event.kind is EventKind.TRIAL_STARTED and event.digest is not None:
            told = delivery_of(event.evidence)
            if told is not None:
                came.setdefault((event.digest, told.outcome), []).append(told.fetched_bytes)
    # In one order, so that no two who add to the same counts wait for each other.
    for digest in sorted({digest for digest, _ in came}):
        row = releases.by_digest(tx, digest)
        variant = None if row is None else row.parsed().variant_for(hardware_class)
        if variant is None:
            continue
        whole_bytes = sum(variant.artifacts.values())
        for outcome in sorted(outcome for each, outcome in came if each == digest):
            _add(tx, digest, hardware_class, outcome, came[digest, outcome], whole_bytes)


def of_release(tx: Connection, digest: str) -> tuple[DeliveryCount, ...]:
    """By class and outcome."""
    query = select(deliveries).where(_c.digest == digest)
    return tuple(
        DeliveryCount(
            hardware_class=row.hardware_class,
            outcome=DeliveryOutcome(row.outcome),
            count=row._mapping["count"],
            fetched_bytes=row.fetched_bytes,
            whole_bytes=row.whole_bytes,
        )
        for row in tx.execute(query.order_by(_c.hardware_class, _c.outcome))
    )


def totals(tx: Connection) -> tuple[DeliveryCount, ...]:
    """Over all releases and classes, by outcome."""
    query = select(
        _c.outcome,
        func.sum(_c.count).label("count"),
        func.sum(_c.fetched_bytes).label("fetched_bytes"),
        func.sum(_c.whole_bytes).label("whole_bytes"),
    ).group_by(_c.outcome)
    return tuple(
        DeliveryCount(
            hardware_class="",
            outcome=DeliveryOutcome(row.outcome),
            count=int(row._mapping["count"]),
            fetched_bytes=int(row.fetched_bytes),
            whole_bytes=int(row.whole_bytes),
        )
        for row in tx.execute(query)
    )


def _add(
    tx: Connection,
    digest: str,
    hardware_class: str,
    outcome: DeliveryOutcome,
    fetched: Sequence[int],
    whole_bytes: int,
) -> None:
    """
    Args:
        fetched: bytes, one for each delivery.
    """
    count = len(fetched)
    fetched_bytes = sum(min(each, FETCHED_TIMES_MAX * whole_bytes) for each in fetched)
    key = {"digest": digest, "hardware_class": hardware_class, "outcome": outcome.value}
    # One statement: several take in what devices tell at the same time.
    row = upsert(tx, deliveries).values(
        **key, count=count, fetched_bytes=fetched_bytes, whole_bytes=count * whole_bytes
    )
    tx.execute(
        row.on_conflict_do_update(
            index_elements=list(key),
            set_={
                "count": _c.count + count,
                "fetched_bytes": _c.fetched_bytes + fetched_bytes,
                "whole_bytes": _c.whole_bytes + count * whole_bytes,
            },
        )
    )
