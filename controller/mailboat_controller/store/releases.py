"""Accepted releases: the signed documents by digest."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, insert, select

from mailboat_controller.store import tables
from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_schemas.documents.release import ReleaseDocument

_releases = tables.releases


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRow:
    digest: str
    model: str
    version: str
    document: bytes
    accepted_at: datetime

    def parsed(self) -> ReleaseDocument:
        return ReleaseDocument.parse(self.document)


class ReleaseName(NamedTuple):
    model: str
    version: str
    digest: str
    accepted_at: datetime


def put(
    tx: Connection, *, digest: str, model: str, version: str, document: bytes, at: datetime
) -> None:
    tx.execute(
        insert(_releases).values(
            digest=digest, model=model, version=version, document=document, accepted_at=to_ms(at)
        )
    )


def by_digest(tx: Connection, digest: str) -> ReleaseRow | None:
    return _read(tx.execute(select(_releases).where(_releases.c.digest == digest)).first())


def by_version(tx: Connection, model: str, version: str) -> ReleaseRow | None:
    c = _releases.c
    return _read(
        tx.execute(select(_releases).where(c.model == model, c.version == version)).first()
    )


def known(tx: Connection, digests: Collection[str]) -> dict[str, tuple[str, str]]:
    """Model and version of those that were accepted, by digest."""
    c = _releases.c
    found = tx.execute(select(c.digest, c.model, c.version).where(c.digest.in_(digests)))
    return {row.digest: (row.model, row.version) for row in found}


def names(tx: Connection, model: str | None = None) -> tuple[ReleaseName, ...]:
    """In the order they were accepted, without the documents: there may be thousands."""
    c = _releases.c
    query = select(c.model, c.version, c.digest, c.accepted_at).order_by(c.accepted_at, c.digest)
    if model is not None:
        query = query.where(c.model == model)
    return tuple(ReleaseName(*row[:3], from_ms(row.accepted_at)) for row in tx.execute(query))


def every(tx: Connection, model: str | None = None) -> tuple[ReleaseRow, ...]:
    """In the order they were accepted."""
    query = select(_releases).order_by(_releases.c.accepted_at, _releases.c.digest)
    if model is not None:
        query = query.where(_releases.c.model == model)
    return tuple(ReleaseRow(**_content(row)) for row in tx.execute(query))


def _read(row: Row[Any] | None) -> ReleaseRow | None:
    return None if row is None else ReleaseRow(**_content(row))


def _content(row: Row[Any]) -> dict[str, Any]:
    return {**row._mapping, "accepted_at": from_ms(row.accepted_at)}
