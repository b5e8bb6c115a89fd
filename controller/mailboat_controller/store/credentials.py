"""Certificates of people, pipelines and dashboards, so that each can be found and revoked."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from mailboat_controller.store import tables
from mailboat_controller.store.instants import from_ms, to_ms

_credentials = tables.credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialRow:
    certificate_serial: str
    name: str
    kind: str
    expires_at: datetime
    revoked: bool
    created_at: datetime


def add(
    tx: Connection, *, serial: str, name: str, kind: str, expires_at: datetime, at: datetime
) -> None:
    tx.execute(
        insert(_credentials).values(
            certificate_serial=serial,
            name=name,
            kind=kind,
            expires_at=to_ms(expires_at),
            revoked=False,
            created_at=to_ms(at),
        )
    )


def by_serial(tx: Connection, serial: str) -> CredentialRow | None:
    found = select(_credentials).where(_credentials.c.certificate_serial == serial)
    row = tx.execute(found).first()
    return None if row is None else _read(row._mapping)


def has_name(tx: Connection, name: str) -> bool:
    """Whether anybody of any kind was ever issued a certificate under this name."""
    found = select(_credentials.c.name).where(_credentials.c.name == name).limit(1)
    return tx.execute(found).first() is not None


def in_force(tx: Connection, *, name: str, kind: str, now: datetime) -> bool:
    """Whether this holder has a certificate that is neither revoked nor over."""
    c = _credentials.c
    found = select(c.name).where(
        c.name == name, c.kind == kind, c.revoked.is_(False), c.expires_at > to_ms(now)
    )
    return tx.execute(found.limit(1)).first() is not None


def ends_by_name(tx: Connection, kind: str) -> dict[str, datetime]:
    """When the newest certificate in force of each holder of a kind ends."""
    c = _credentials.c
    rows = tx.execute(
        select(c.name, func.max(c.expires_at))
        .where(c.kind == kind, c.revoked.is_(False))
        .group_by(c.name)
    )
    return {name: from_ms(at) for name, at in rows}


def every(tx: Connection) -> tuple[CredentialRow, ...]:
    rows = tx.execute(select(_credentials).order_by(_credentials.c.created_at))
    return tuple(_read(row._mapping) for row in rows)


def revoke(tx: Connection, *, name: str, kind: str) -> int:
    """Revoke every certificate of one holder; returns how many were in force."""
    c = _credentials.c
    result = tx.execute(
        update(_credentials)
        .where(c.name == name, c.kind == kind, c.revoked.is_(False))
        .values(revoked=True)
    )
    return result.rowcount


def _read(row: Any) -> CredentialRow:
    instants = {name: from_ms(row[name]) for name in ("expires_at", "created_at")}
    return CredentialRow(**{**row, **instants})
