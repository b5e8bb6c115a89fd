"""An artifact's life beyond its bytes: retired releases, what nobody names, what was damaged."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from mailboat_controller.store import artifact_life_tables as tables
from mailboat_controller.store.instants import from_ms, to_ms

_ROWS_AT_ONCE = 500  # a statement may have so many parameters, and some to spare


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedRow:
    digest: str
    length: int
    problem: str
    found_at: datetime


def retire(tx: Connection, digest: str, *, actor: str, reason: str, at: datetime) -> None:
    tx.execute(
        insert(tables.retired_releases).values(
            digest=digest, actor=actor[:128], reason=reason, retired_at=to_ms(at)
        )
    )


def reinstate(tx: Connection, digest: str) -> bool:
    """Take a retirement back; False when there was none."""
    c = tables.retired_releases.c
    return tx.execute(delete(tables.retired_releases).where(c.digest == digest)).rowcount > 0


def retired(tx: Connection) -> frozenset[str]:
    """Digests of retired release documents."""
    return frozenset(tx.execute(select(tables.retired_releases.c.digest)).scalars())


def unnamed(tx: Connection) -> dict[str, datetime]:
    """Since when a collection has found each artifact named by nothing."""
    return {row.digest: from_ms(row.since) for row in tx.execute(select(tables.unnamed_artifacts))}


def note_unnamed(tx: Connection, digests: Iterable[str], now: datetime) -> None:
    rows = [{"digest": digest, "since": to_ms(now)} for digest in digests]
    if rows:
        tx.execute(insert(tables.unnamed_artifacts), rows)


def forget_unnamed(tx: Connection, digests: Collection[str]) -> int:
    """Its grace begins anew, should it be found unnamed again; says how many there were."""
    asked, found = sorted(digests), 0
    for start in range(0, len(asked), _ROWS_AT_ONCE):
        some = tables.unnamed_artifacts.c.digest.in_(asked[start : start + _ROWS_AT_ONCE])
        found += tx.execute(delete(tables.unnamed_artifacts).where(some)).rowcount
    return found


def is_unnamed(tx: Connection, digest: str) -> bool:
    c = tables.unnamed_artifacts.c
    return tx.execute(select(c.digest).where(c.digest == digest)).first() is not None


def damaged(tx: Connection) -> tuple[DamagedRow, ...]:
    """By digest; what was found and is not whole again."""
    query = select(tables.damaged_artifacts).order_by(tables.damaged_artifacts.c.digest)
    return tuple(
        DamagedRow(**{**row._mapping, "found_at": from_ms(row.found_at)})
        for row in tx.execute(query)
    )


def note_damaged(tx: Connection, row: DamagedRow) -> bool:
    """False, and nothing changes, when it was known as damaged already."""
    c = tables.damaged_artifacts.c
    if tx.execute(select(c.digest).where(c.digest == row.digest)).first() is not None:
        return False
    tx.execute(
        insert(tables.damaged_artifacts).values(
            digest=row.digest,
            length=row.length,
            problem=row.problem,
            found_at=to_ms(row.found_at),
        )
    )
    return True


def forget_damaged(tx: Connection, digest: str) -> bool:
    c = tables.damaged_artifacts.c
    return tx.execute(delete(tables.damaged_artifacts).where(c.digest == digest)).rowcount > 0


def job(tx: Connection, name: str) -> Mapping[str, Any] | None:
    c = tables.artifact_jobs.c
    found: Mapping[str, Any] | None = tx.execute(select(c.content).where(c.name == name)).scalar()
    return found


def put_job(tx: Connection, name: str, content: Mapping[str, Any]) -> None:
    tx.execute(delete(tables.artifact_jobs).where(tables.artifact_jobs.c.name == name))
    tx.execute(insert(tables.artifact_jobs).values(name=name, content=dict(content)))
