"""Restores and rebuilds of this database. While one is not finished, nothing may be published."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from mailboat_controller.store.audit_head_tables import recoveries as _recoveries
from mailboat_controller.store.instants import from_ms, to_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryRow:
    id: int
    kind: str  # restore | rebuild
    begun_at: datetime
    backup_at: datetime | None
    finished_at: datetime | None
    actor: str
    reason: str
    learned: Mapping[str, Any]


def begin(
    tx: Connection,
    *,
    kind: str,
    backup_at: datetime | None,
    actor: str,
    reason: str,
    at: datetime,
) -> None:
    tx.execute(
        insert(_recoveries).values(
            kind=kind,
            begun_at=to_ms(at),
            backup_at=None if backup_at is None else to_ms(backup_at),
            finished_at=None,
            actor=actor[:128],
            reason=reason,
            learned={},
        )
    )


def pending(tx: Connection) -> RecoveryRow | None:
    """The newest that is not finished."""
    query = select(_recoveries).where(_recoveries.c.finished_at.is_(None))
    return _first(tx.execute(query.order_by(_recoveries.c.id.desc()).limit(1)).first())


def newest(tx: Connection) -> RecoveryRow | None:
    query = select(_recoveries).order_by(_recoveries.c.id.desc()).limit(1)
    return _first(tx.execute(query).first())


def finish(tx: Connection, *, learned: Mapping[str, Any], at: datetime) -> None:
    """Every one that is not finished: a database may have been restored twice in a row."""
    tx.execute(
        update(_recoveries)
        .where(_recoveries.c.finished_at.is_(None))
        .values(finished_at=to_ms(at), learned=dict(learned))
    )


def _first(row: Row[Any] | None) -> RecoveryRow | None:
    if row is None:
        return None
    content = dict(row._mapping)
    instants = {
        name: None if content[name] is None else from_ms(content[name])
        for name in ("begun_at", "backup_at", "finished_at")
    }
    return RecoveryRow(**{**content, **instants})
