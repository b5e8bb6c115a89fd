"""Who may use the broker, read from the registry in one view."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from mailboat_controller.store import device_certificates, tables
from mailboat_controller.store.device_certificates import RefusedCertificate
from mailboat_controller.store.instants import to_ms
from mailboat_controller.store.site_tables import sites
from mailboat_schemas.enrolment import Kind

_devices = tables.devices
_credentials = tables.credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Names are the common names of certificates. Everything is sorted, so that the same registry
    gives the same files."""

    devices: tuple[tuple[str, str], ...]  # (device, hardware class), without those revoked
    pipelines: tuple[str, ...]
    dashboards: tuple[str, ...]
    sites: tuple[str, ...]
    cut_off: tuple[str, ...]  # whose every certificate is revoked, while one has not ended
    refused: tuple[RefusedCertificate, ...]


def read(tx: Connection, now: datetime) -> Access:
    d, k = _devices.c, _credentials.c
    devices = tx.execute(
        select(d.device, d.hardware_class).where(d.revoked.is_(False)).order_by(d.device)
    ).fetchall()
    holders: dict[str, set[str]] = {kind: set() for kind in Kind}
    rows = tx.execute(select(k.kind, k.name).where(k.revoked.is_(False), k.expires_at > to_ms(now)))
    for kind, name in rows:
        holders.setdefault(kind, set()).add(name)
    allowed = {name for name, _ in devices}.union(*holders.values())
    refused = device_certificates.refused(tx, now)
    cut_off = {each.name for each in refused if each.revoked} - allowed
    # From the day a site is known: its bridge may connect as soon as it has its kit.
    bridges = holders[Kind.SITE].union(tx.execute(select(sites.c.name)).scalars()) - cut_off
    return Access(
        devices=tuple((name, hardware_class) for name, hardware_class in devices),
        pipelines=tuple(sorted(holders[Kind.CI])),
        dashboards=tuple(sorted(holders[Kind.DASHBOARD])),
        sites=tuple(sorted(bridges)),
        cut_off=tuple(sorted(cut_off)),
        refused=refused,
    )
