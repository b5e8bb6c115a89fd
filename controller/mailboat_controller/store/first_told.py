"""Which manifest first named a release to a class, as an offer and as what all run."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.trace_tables import first_told
from mailboat_controller.store.upsert import upsert

OFFER, CURRENT = "offer", "current"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstTold:
    digest: str
    hardware_class: str
    role: str  # offer | current
    counter: int
    at: datetime


def note(
    tx: Connection,
    hardware_class: str,
    counter: int,
    named: Iterable[tuple[str, str]],
    now: datetime,
) -> None:
    """Args: named: digest and role of what this manifest names; what is known stays."""
    rows = [
        {
            "digest": digest,
            "hardware_class": hardware_class,
            "role": role,
            "counter": counter,
            "at": to_ms(now),
        }
        for digest, role in named
    ]
    if rows:
        tx.execute(upsert(tx, first_told).on_conflict_do_nothing(), rows)


def of(tx: Connection, digest: str) -> tuple[FirstTold, ...]:
    """Oldest first."""
    c = first_told.c
    rows = tx.execute(select(first_told).where(c.digest == digest).order_by(c.at, c.hardware_class))
    return tuple(FirstTold(**{**row._mapping, "at": from_ms(row.at)}) for row in rows)
