"""Documents that people signed for classes, sites and devices, by digest."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from mailboat_controller.store import trust_roles
from mailboat_controller.store.fleet_document_tables import fleet_documents
from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_schemas.documents.fleet_document import FleetDocument, Level
from mailboat_schemas.errors import SignatureInvalid
from mailboat_schemas.fleet_documents import Listed, Place, listed_in_bytes

HISTORY_MAX = 100  # of one place, in a listing

_rows = fleet_documents


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetDocumentRow:
    digest: str
    place: Place
    name: str
    version: str
    epoch: int
    document: bytes
    accepted_at: datetime
    accepted_by: str
    reason: str


def put(
    tx: Connection,
    documents: Iterable[tuple[Listed, FleetDocument]],
    *,
    at: datetime,
    by: str,
    reason: str,
) -> None:
    """Keep what was listed; of a document that is here already, the epoch alone."""
    for listed, document in documents:
        held = by_digest(tx, listed.digest)
        if held is not None:
            epoch = max(held.epoch, listed.epoch)
            tx.execute(update(_rows).where(_rows.c.digest == held.digest).values(epoch=epoch))
            continue
        tx.execute(
            insert(_rows).values(
                digest=listed.digest,
                role=listed.place.role,
                level=listed.place.level.value,
                target=listed.place.target,
                name=document.metadata.name,
                version=document.metadata.version,
                epoch=listed.epoch,
                document=document.canonical_bytes(),
                accepted_at=to_ms(at),
                accepted_by=by,
                reason=reason,
            )
        )


def by_digest(tx: Connection, digest: str) -> FleetDocumentRow | None:
    return next(iter(by_digests(tx, [digest])), None)


def by_digests(tx: Connection, digests: Collection[str]) -> list[FleetDocumentRow]:
    query = select(_rows).where(_rows.c.digest.in_(digests)).order_by(_rows.c.digest)
    return [_read(row) for row in tx.execute(query)]


def history(tx: Connection, place: Place) -> list[FleetDocumentRow]:
    """What was accepted for a place, newest first."""
    c = _rows.c
    query = (
        select(_rows)
        .where(c.role == place.role, c.level == place.level.value, c.target == place.target)
        .order_by(c.accepted_at.desc(), c.digest)
        .limit(HISTORY_MAX)
    )
    return [_read(row) for row in tx.execute(query)]


def marks(tx: Connection, place: Place) -> list[tuple[int, str, str]]:
    """Epoch, version and digest of everything that was ever accepted for a place: what was
    forgotten could come back. A row for each signature of people, without the documents."""
    c = _rows.c
    query = select(c.epoch, c.version, c.digest).where(
        c.role == place.role, c.level == place.level.value, c.target == place.target
    )
    return [(row.epoch, row.version, row.digest) for row in tx.execute(query.order_by(c.digest))]


def in_force(tx: Connection, role: str) -> dict[Place, Listed]:
    """What the newest version of a role lists; nothing where it is not held or is unusable.

    Roles are verified before they are stored.
    """
    newest = trust_roles.newest_of(tx, role)
    if newest is None:
        return {}
    try:
        return listed_in_bytes(role, newest[1])
    except SignatureInvalid:
        return {}


def documents_of(tx: Connection, listed: Iterable[Listed]) -> dict[str, bytes]:
    """Their bytes by digest, as far as they are here."""
    digests = sorted({each.digest for each in listed})
    return {row.digest: row.document for row in by_digests(tx, digests)} if digests else {}


def _read(row: Row[Any]) -> FleetDocumentRow:
    found = dict(row._mapping)
    place = Place(found.pop("role"), Level(found.pop("level")), found.pop("target"))
    return FleetDocumentRow(
        **found | {"place": place, "accepted_at": from_ms(found["accepted_at"])}
    )
