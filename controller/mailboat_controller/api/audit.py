"""The audit log, to read and to check."""

import threading
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from mailboat_controller.access.rate_limits import RateLimited
from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Reader
from mailboat_controller.api.limits import NUMBER_MAX, PRINTED
from mailboat_controller.store import audit
from mailboat_controller.traces.about import release_of
from mailboat_schemas.tracing import trace_id

PAGE_ROWS_MAX = 500
VERIFY_AGAIN = timedelta(seconds=5)

_verifying = threading.Lock()

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
    trace_id: str | None  # of the release it is about


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
        about = [release_of(tx, row) for row in rows]
    traces = [None if each is None else trace_id(each.digest) for each in about]
    return [Entry(**asdict(row), trace_id=trace) for row, trace in zip(rows, traces, strict=True)]


@router.get("/verify")
def verify(_reader: Reader, context: Context) -> Verification:
    """Reads the whole log, so for one caller at a time."""
    if not _verifying.acquire(blocking=False):
        raise RateLimited(
            "The audit log is being verified for somebody else.",
            next_step="ask again in a moment.",
            retry_after=VERIFY_AGAIN,
        )
    try:
        with context.store.read() as tx:
            broken_at = audit.verify(tx)
            entries, head = audit.head(tx)
    finally:
        _verifying.release()
    return Verification(holds=broken_at is None, broken_at=broken_at, entries=entries, head=head)
