"""Documents that people signed for classes, sites and devices: what holds, and what held before."""

import hashlib
from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from mailboat_controller.api import etags
from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Reader
from mailboat_controller.api.pages import Paged
from mailboat_controller.store import fleet_documents
from mailboat_controller.store.fleet_documents import FleetDocumentRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.documents.fleet_document import Level, PlainVersion
from mailboat_schemas.errors import NotFound
from mailboat_schemas.fleet_documents import Place
from mailboat_schemas.names import Label

router = APIRouter(prefix="/v1/documents", tags=["config and policy"])

FleetRole = Literal["config", "policy"]


class FleetDocumentState(BaseModel):
    """``in_force``: it is what the newest role lists for its place."""

    level: Level
    target: str
    name: str
    version: str
    digest: str
    epoch: int = Field(description="goes up when an older version is signed on purpose")
    in_force: bool
    accepted_at: datetime
    accepted_by: str
    reason: str


@router.get("/{role}")
def list_documents(
    role: FleetRole, _reader: Reader, paging: Paged, context: Context
) -> list[FleetDocumentState]:
    """Those that hold, classes before sites before devices."""
    with context.store.read() as tx:
        listed = fleet_documents.in_force(tx, role)
        rows = fleet_documents.by_digests(tx, sorted({each.digest for each in listed.values()}))
    order = list(Level)
    place = lambda row: (order.index(row.place.level), row.place.target)  # noqa: E731
    return [_state(row, in_force=True) for row in paging.cut(sorted(rows, key=place), place)]


@router.get("/{role}/{level}/{target}")
def list_history(
    role: FleetRole, level: Level, target: Label, _reader: Reader, context: Context
) -> list[FleetDocumentState]:
    """What was accepted for one class, site or device, newest first."""
    place = Place(role, level, target)
    with context.store.read() as tx:
        listed = fleet_documents.in_force(tx, role).get(place)
        rows = fleet_documents.history(tx, place)
    digest = None if listed is None else listed.digest
    return [_state(row, in_force=row.digest == digest) for row in rows]


@router.get(
    "/{role}/{level}/{target}/{version}",
    response_class=Response,
    responses=etags.described(etags.JSON),
)
def get_document(
    role: FleetRole,
    level: Level,
    target: Label,
    version: PlainVersion,
    request: Request,
    _reader: Reader,
    context: Context,
) -> Response:
    """The signed document itself, byte for byte; its sha256 is the ETag."""
    with context.store.read() as tx:
        content = _row(tx, Place(role, level, target), version).document
    digest = hashlib.sha256(content).hexdigest()
    return etags.answer(request, content, digest, media_type="application/json")


def _row(tx: Transaction, place: Place, version: str) -> FleetDocumentRow:
    rows = (row for row in fleet_documents.history(tx, place) if row.version == version)
    found = next(rows, None)
    if found is None:
        raise NotFound(
            f"There is no {place.role} {version} for {place}.",
            next_step=f"`mailboat {place.role} list {place.level} {place.target}` shows those "
            "there are.",
        )
    return found


def _state(row: FleetDocumentRow, *, in_force: bool) -> FleetDocumentState:
    return FleetDocumentState(
        level=row.place.level,
        target=row.place.target,
        name=row.name,
        version=row.version,
        digest=row.digest,
        epoch=row.epoch,
        in_force=in_force,
        accepted_at=row.accepted_at,
        accepted_by=row.accepted_by,
        reason=row.reason,
    )
