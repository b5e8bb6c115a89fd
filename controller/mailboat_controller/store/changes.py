"""Has anything changed since somebody looked? Marks that differ if so, each from an index."""

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import Column, Connection, func, select

from mailboat_controller.store import tables
from mailboat_controller.store.site_tables import sites


class Mark(NamedTuple):
    """``value`` differs once there was a change; ``at_ms`` is when the newest was."""

    value: int
    at_ms: int


class Marks(NamedTuple):
    audit: Mark
    events: Mark  # of any device
    rollouts: Mark
    releases: Mark
    sites: Mark


class DeviceMark(NamedTuple):
    last_seen_at_ms: int | None
    presence_at_ms: int | None
    event: int


def marks(tx: Connection) -> Marks:
    r, s = tables.rollouts.c, sites.c
    count = func.count()
    connected = func.count().filter(s.connected.is_(True))
    accepted = select(count, func.max(tables.releases.c.accepted_at))
    releases = tx.execute(accepted).one()
    rollouts = tx.execute(select(count, func.max(r.updated_at))).one()
    links = tx.execute(select(count + connected, func.max(s.changed_at))).one()
    return Marks(
        audit=_newest(tx, tables.audit.c.sequence, tables.audit.c.at),
        events=_newest(tx, tables.events.c.id, tables.events.c.received_at),
        # Of two in one millisecond the second is seen as soon as anything else changes.
        rollouts=Mark(rollouts[0] + (rollouts[1] or 0), rollouts[1] or 0),
        releases=Mark(releases[0], releases[1] or 0),
        sites=Mark(links[0] + (links[1] or 0), links[1] or 0),
    )


def _newest(tx: Connection, number: Column[int], at: Column[int]) -> Mark:
    row = tx.execute(select(number, at).order_by(number.desc()).limit(1)).first()
    return Mark(0, 0) if row is None else Mark(row[0], row[1])


def of_devices(tx: Connection, names: Collection[str]) -> dict[str, DeviceMark]:
    """Those of these devices that there are."""
    d, e = tables.devices.c, tables.events.c
    rows = tx.execute(
        select(d.device, d.last_seen_at, d.presence_at).where(d.device.in_(sorted(names)))
    ).fetchall()
    found = {}
    for row in rows:
        newest = select(func.max(e.id)).where(e.device == row.device)
        event = tx.execute(newest).scalar() or 0
        found[row.device] = DeviceMark(row.last_seen_at, row.presence_at, event)
    return found
