"""The audit log, to read and to check."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Reader
from mailboat_controller.api.limits import NUMBER_MAX, PRINTED
from mailboat_controller.store import audit

PAGE_ROWS_MAX = 500

router = APIRouter(prefix="/v1/audit", tags=["audit"])


class Entry(BaseModel):
    sequence: int
    at: datetime
    actor: str
    action: str
    subject: str
    reason: str
    details: dict[str, Any]
    previous_hash: str
    hash: str


class Verification(BaseModel):
    """``broken_at`` is the first entry that does not hold. Write ``head`` down elsewhere: rows cut
    off at the end leave no other trace."""

    holds: bool
    broken_at: int | None
    entries: int
    head: str


@router.get("")
def list_entries(
    _reader: Reader,
    context: Context,
    after: Annotated[int, Query(ge=0, le=NUMBER_MAX)] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE_ROWS_MAX)] = 100,
    subject: Annotated[
        str | None, Query(max_length=audit.SUBJECT_LENGTH_MAX, pattern=PRINTED)
    ] = None,
) -> list[Entry]:
    with context.store.read() as tx:
        rows = audit.page(tx, after=after, limit=limit, subject=subject)
    return [Entry(**asdict(row)) for row in rows]


@router.get("/verify")
def verify(_reader: Reader, context: Context) -> Verification:
    with context.store.read() as tx:
        broken_at = audit.verify(tx)
        entries, head = audit.head(tx)
    return Verification(holds=broken_at is None, broken_at=broken_at, entries=entries, head=head)
