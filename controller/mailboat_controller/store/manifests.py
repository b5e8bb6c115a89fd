"""The newest bundle of each class: what MQTT retains and HTTPS serves."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, func, insert, select

from mailboat_controller.store import tables
from mailboat_controller.store.instants import from_ms, to_ms

_manifests = tables.manifests


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    hardware_class: str
    counter: int
    bundle: bytes
    etag: str  # sha256 of the bundle, in hex
    content_digest: str  # of what it says apart from counter, issue time and timestamp role
    published_at: datetime


def etag_for(bundle: bytes) -> str:
    return hashlib.sha256(bundle).hexdigest()


def put(tx: Connection, manifest: ManifestRow) -> None:
    tx.execute(delete(_manifests).where(_manifests.c.hardware_class == manifest.hardware_class))
    tx.execute(
        insert(_manifests).values(
            hardware_class=manifest.hardware_class,
            counter=manifest.counter,
            bundle=manifest.bundle,
            etag=manifest.etag,
            content_digest=manifest.content_digest,
            published_at=to_ms(manifest.published_at),
        )
    )


def of_class(tx: Connection, hardware_class: str) -> ManifestRow | None:
    rows = _select(tx, hardware_class)
    return rows[0] if rows else None


def counter_of(tx: Connection, hardware_class: str) -> int:
    """0 before the first one."""
    query = select(_manifests.c.counter).where(_manifests.c.hardware_class == hardware_class)
    found = tx.execute(query).scalar()
    return 0 if found is None else int(found)


def etag_of(tx: Connection, hardware_class: str) -> str:
    """ "" before the first one."""
    query = select(_manifests.c.etag).where(_manifests.c.hardware_class == hardware_class)
    return tx.execute(query).scalar() or ""


def every(tx: Connection) -> tuple[ManifestRow, ...]:
    return _select(tx, None)


def _select(tx: Connection, hardware_class: str | None) -> tuple[ManifestRow, ...]:
    query = select(_manifests).order_by(_manifests.c.hardware_class)
    if hardware_class is not None:
        query = query.where(_manifests.c.hardware_class == hardware_class)
    return tuple(
        ManifestRow(**{**row._mapping, "published_at": from_ms(row.published_at)})
        for row in tx.execute(query)
    )


def highest_reported(tx: Connection, hardware_class: str, counter_max: int) -> int:
    """The highest counter up to ``counter_max`` that devices in force say they have seen; 0: none.

    One device that claims more than that hides nothing of what the others say.
    """
    c = tables.devices.c
    query = select(func.max(c.manifest_counter)).where(
        c.hardware_class == hardware_class,
        c.revoked.is_(False),
        c.manifest_counter <= counter_max,
    )
    return tx.execute(query).scalar() or 0
