"""Every accepted version of every TUF role, as the signed bytes."""

from datetime import datetime

from sqlalchemy import Connection, and_, func, insert, select

from mailboat_controller.store import tables
from mailboat_controller.store.instants import from_ms, to_ms

_roles = tables.trust_roles


def put(tx: Connection, role: str, version: int, content: bytes, at: datetime) -> None:
    """Keep a version. Versions are immutable: the database refuses one that is there."""
    tx.execute(
        insert(_roles).values(role=role, version=version, content=content, received_at=to_ms(at))
    )


def newest(tx: Connection) -> dict[str, bytes]:
    """The newest bytes of every role, the root too."""
    c = _roles.c
    top = select(c.role, func.max(c.version).label("version")).group_by(c.role).subquery()
    rows = tx.execute(
        select(c.role, c.content).join(top, and_(c.role == top.c.role, c.version == top.c.version))
    )
    return {row.role: row.content for row in rows}


def versions(tx: Connection) -> dict[str, int]:
    """The newest version of every role."""
    c = _roles.c
    rows = tx.execute(select(c.role, func.max(c.version).label("version")).group_by(c.role))
    return {row.role: row.version for row in rows}


def newest_of(tx: Connection, role: str) -> tuple[int, bytes, datetime] | None:
    """Version, bytes and when it came."""
    c = _roles.c
    row = tx.execute(
        select(_roles).where(c.role == role).order_by(c.version.desc()).limit(1)
    ).first()
    return None if row is None else (row.version, row.content, from_ms(row.received_at))


def roots(tx: Connection) -> tuple[bytes, ...]:
    """The root chain, oldest first."""
    c = _roles.c
    rows = tx.execute(select(c.content).where(c.role == "root").order_by(c.version))
    return tuple(rows.scalars())
