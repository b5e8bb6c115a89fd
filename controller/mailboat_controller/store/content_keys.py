"""Content keys, wrapped, and which devices were given them."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, insert, select

from mailboat_controller.store.content_key_tables import content_key_grants, content_keys
from mailboat_controller.store.instants import from_ms, to_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentKeyRow:
    key_id: str
    wrapped: bytes
    kek: str
    handed_over_by: str
    created_at: datetime
    devices: int  # that were given it


def add(
    tx: Connection, key_id: str, *, wrapped: bytes, kek: str, handed_over_by: str, at: datetime
) -> None:
    tx.execute(
        insert(content_keys).values(
            key_id=key_id,
            wrapped=wrapped,
            kek=kek,
            handed_over_by=handed_over_by[:128],
            created_at=to_ms(at),
        )
    )


def find(tx: Connection, key_id: str) -> ContentKeyRow | None:
    rows = _select(tx, key_id)
    return rows[0] if rows else None


def every(tx: Connection) -> tuple[ContentKeyRow, ...]:
    """Oldest first."""
    return _select(tx, None)


def newest(tx: Connection) -> ContentKeyRow | None:
    c = content_keys.c
    found = select(c.key_id).order_by(c.created_at.desc(), c.key_id).limit(1)
    key_id = tx.execute(found).scalar()
    return None if key_id is None else find(tx, key_id)


def has(tx: Connection, key_id: str) -> bool:
    found = select(content_keys.c.key_id).where(content_keys.c.key_id == key_id)
    return tx.execute(found).first() is not None


def count(tx: Connection) -> int:
    return int(tx.execute(select(func.count()).select_from(content_keys)).scalar_one())


def grant(tx: Connection, key_id: str, *, device: str, device_key: str, at: datetime) -> bool:
    """Note that a device is given a key; False if it was noted before."""
    if is_granted(tx, key_id, device=device, device_key=device_key):
        return False
    tx.execute(
        insert(content_key_grants).values(
            key_id=key_id, device=device, device_key=device_key, given_at=to_ms(at)
        )
    )
    return True


def is_granted(tx: Connection, key_id: str, *, device: str, device_key: str) -> bool:
    c = content_key_grants.c
    known = select(c.device).where(
        c.key_id == key_id, c.device == device, c.device_key == device_key
    )
    return tx.execute(known).first() is not None


def _select(tx: Connection, key_id: str | None) -> tuple[ContentKeyRow, ...]:
    given = (
        select(func.count(func.distinct(content_key_grants.c.device)))
        .where(content_key_grants.c.key_id == content_keys.c.key_id)
        .scalar_subquery()
        .label("devices")
    )
    query = select(content_keys, given).order_by(content_keys.c.created_at, content_keys.c.key_id)
    if key_id is not None:
        query = query.where(content_keys.c.key_id == key_id)
    return tuple(
        ContentKeyRow(**{**row._mapping, "created_at": from_ms(row.created_at)})
        for row in tx.execute(query)
    )
