"""Accepted releases."""

from datetime import datetime

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from mailboat_controller.api import etags
from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import AnyHolder, Reader
from mailboat_controller.store import releases
from mailboat_schemas.errors import NotFound
from mailboat_schemas.names import ModelName, Version

router = APIRouter(prefix="/v1/releases", tags=["releases"])


class ReleaseSummary(BaseModel):
    model: str
    version: str
    digest: str
    accepted_at: datetime
    security_version: int
    hardware_classes: list[str]
    description: str


@router.get("")
def list_releases(
    _reader: Reader, context: Context, model: ModelName | None = None
) -> list[ReleaseSummary]:
    """In the order they were accepted."""
    with context.store.read() as tx:
        rows = releases.every(tx, model)
    return [_summary(row) for row in rows]


@router.get("/{model}/{version}", response_class=Response)
def get_release(
    model: ModelName, version: Version, request: Request, _holder: AnyHolder, context: Context
) -> Response:
    """The signed document itself, byte for byte; its sha256 is the ETag."""
    with context.store.read() as tx:
        row = releases.by_version(tx, model, version)
    if row is None:
        raise NotFound(
            f"There is no release {model} {version}.",
            next_step="`mailboat release list` shows those there are.",
        )
    return etags.answer(request, row.document, row.digest, media_type="application/json")


def _summary(row: releases.ReleaseRow) -> ReleaseSummary:
    document = row.parsed()
    return ReleaseSummary(
        model=row.model,
        version=row.version,
        digest=row.digest,
        accepted_at=row.accepted_at,
        security_version=document.security_version,
        hardware_classes=sorted(
            name for variant in document.variants for name in variant.hardware_classes
        ),
        description=document.description,
    )
