"""What the devices of each class say of how far behind they are, counted in SQL; and what a silent
device of a class means to people."""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, case, func, select

from mailboat_controller.store import classes, tables
from mailboat_controller.store.instants import to_ms
from mailboat_schemas.documents.hardware_class import WhenDisconnected
from mailboat_schemas.staleness import NOTE, STOPPED_NOTE

_devices = tables.devices


class StaleCount(NamedTuple):
    """Devices of a class with a model further behind than policy allows; ``stopped`` are those of
    them that serve one no more for it."""

    hardware_class: str
    stale: int
    stopped: int


def stale(tx: Connection, heard_since: datetime) -> tuple[StaleCount, ...]:
    """By the newest report of each device that is not revoked and was heard of since then."""
    c = _devices.c
    notes = c.report["notes"].as_string()  # the list as JSON text
    said = and_(c.revoked.is_(False), c.last_seen_at >= to_ms(heard_since))
    rows = tx.execute(
        select(c.hardware_class, _counted(said, notes, NOTE), _counted(said, notes, STOPPED_NOTE))
        .group_by(c.hardware_class)
        .order_by(c.hardware_class)
    )
    return tuple(StaleCount._make(row) for row in rows)


def when_disconnected(tx: Connection) -> dict[str, WhenDisconnected]:
    """By class."""
    return {each.metadata.name: each.spec.when_disconnected for each in classes.every(tx)}


def silence_is_expected(tx: Connection) -> list[str]:
    """Classes whose devices are missed by nobody while they say nothing."""
    found = when_disconnected(tx)
    return sorted(name for name, means in found.items() if means is WhenDisconnected.EXPECTED)


def _counted(said: Any, notes: Any, note: str) -> Any:
    told = and_(said, notes.contains(f'"{note}', autoescape=True))
    return func.coalesce(func.sum(case((told, 1), else_=0)), 0)
