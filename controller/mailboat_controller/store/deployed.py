"""Which releases the fleet runs, by what devices report: counted in SQL, never row by row."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, case, func, select

from mailboat_controller.store import tables
from mailboat_controller.store.instants import from_ms

_devices = tables.devices
_releases = tables.releases


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """An accepted release, and how many devices of a class serve it."""

    hardware_class: str
    model: str
    version: str
    digest: str
    devices: int
    accepted_at: datetime


def count(tx: Connection) -> tuple[Deployed, ...]:
    """By class and model, the most deployed first and of two the newer; revoked devices are out.

    A device may report any digest: those of releases that nobody accepted are not counted.
    """
    c, r = _devices.c, _releases.c
    reported = _reported_models(tx)
    digest = _field(tx, reported, "serving_digest")
    # Counted before the releases are joined: a few digests instead of a row for each device.
    counts = (
        select(c.hardware_class, digest.label("digest"), func.count().label("devices"))
        .select_from(_devices)
        .join(reported, reported.c.value.is_not(None))
        .where(c.revoked.is_(False), c.report.is_not(None), digest.is_not(None))
        .group_by(c.hardware_class, digest)
        .subquery()
    )
    n = counts.c
    rows = tx.execute(
        select(n.hardware_class, r.model, r.version, r.digest, n.devices, r.accepted_at.label("at"))
        .join(_releases, r.digest == n.digest)
        .order_by(n.hardware_class, r.model, n.devices.desc(), r.accepted_at.desc(), r.digest)
    )
    return tuple(
        Deployed(
            hardware_class=row.hardware_class,
            model=row.model,
            version=row.version,
            digest=row.digest,
            devices=row.devices,
            accepted_at=from_ms(row.at),
        )
        for row in rows
    )


def live_by_class(tx: Connection) -> dict[str, int]:
    """Devices that are not revoked."""
    c = _devices.c
    live = func.sum(case((c.revoked.is_(False), 1), else_=0))
    rows = tx.execute(select(c.hardware_class, live).group_by(c.hardware_class))
    return {hardware_class: int(number) for hardware_class, number in rows}


def _reported_models(tx: Connection) -> Any:
    """The models of a report as rows, in the words of each database."""
    report = _devices.c.report
    if tx.dialect.name == "sqlite":
        return func.json_each(report, "$.models").table_valued("value", joins_implicitly=True)
    return func.json_array_elements(report["models"]).table_valued("value", joins_implicitly=True)


def _field(tx: Connection, reported: Any, name: str) -> Any:
    if tx.dialect.name == "sqlite":
        return func.json_extract(reported.c.value, f"$.{name}")
    return func.json_extract_path_text(reported.c.value, name)
