"""The audit log, to read and to check."""

import threading
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, Field

from mailboat_controller.access.rate_limits import RateLimited
from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Reader
from mailboat_controller.api.limits import NUMBER_MAX, PRINTED
from mailboat_controller.api.pages import first_of, tell_next
from mailboat_controller.auditing import checking, signed_head
from mailboat_controller.store import audit
from mailboat_controller.store.audit import AuditRow, Wanted
from mailboat_controller.store.instants import to_ms
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.traces.about import release_of
from mailboat_schemas.tracing import trace_id

PAGE_ROWS_MAX = 500
ACTOR_CHARS_MAX = 128
ACTION_CHARS_MAX = 64
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


class SealedEntry(BaseModel):
    """As it was sealed: ``hash`` is over the others as canonical JSON, ``at`` in milliseconds."""

    sequence: int
    at: int
    actor: str
    action: str
    subject: str
    reason: str
    details: dict[str, Any]
    previous_hash: str
    hash: str


class Verification(BaseModel):
    """``broken_at`` is the first entry that does not hold. Keep a signed head elsewhere: whoever
    can write to the database can take those away that are kept in it."""

    holds: bool
    broken_at: int | None
    problem: str = Field(description="what is wrong with it; empty: nothing")
    next_step: str
    entries: int
    head: str
    heads: int = Field(description="signed heads in the database that were compared")


class SignedHeadFile(BaseModel):
    """``payload`` is JSON; ``signature`` is over DSSE's pre-authentication encoding of it."""

    payload: str
    keyid: str
    signature: str
    public_key: dict[str, Any]


@router.get("")
def list_entries(
    _reader: Reader,
    context: Context,
    request: Request,
    response: Response,
    after: Annotated[int, Query(ge=0, le=NUMBER_MAX)] = 0,
    before: Annotated[
        int | None,
        Query(ge=1, le=NUMBER_MAX, description="the newest entries below this, instead of after"),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_ROWS_MAX)] = 100,
    subject: Annotated[
        str | None, Query(max_length=audit.SUBJECT_LENGTH_MAX, pattern=PRINTED)
    ] = None,
    actor: Annotated[str | None, Query(max_length=ACTOR_CHARS_MAX, pattern=PRINTED)] = None,
    action: Annotated[
        str | None,
        Query(
            max_length=ACTION_CHARS_MAX,
            pattern=PRINTED,
            description="such as rollout.halt; with the dot at its end, every action of a noun",
        ),
    ] = None,
    since: AwareDatetime | None = None,
    until: AwareDatetime | None = None,
) -> list[Entry]:
    """Entries in order; filters narrow what is listed, never what a page hangs on."""
    wanted = Wanted(subject=subject, actor=actor, action=action, since=since, until=until)
    with context.store.read() as tx:
        if before is None:
            found = audit.page(tx, after=after, limit=limit + 1, wanted=wanted)
            rows = first_of(found, limit, request, response, after=lambda row: row.sequence)
        else:
            found = audit.newest_page(tx, before=before, limit=limit + 1, wanted=wanted)
            rows = found[-limit:]
            if len(found) > limit:
                tell_next(request, response, before=rows[0].sequence)
        return _told(tx, rows)


@router.get("/sealed")
def list_sealed_entries(
    _reader: Reader,
    context: Context,
    request: Request,
    response: Response,
    after: Annotated[int, Query(ge=0, le=NUMBER_MAX)] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE_ROWS_MAX)] = 100,
) -> list[SealedEntry]:
    """What an export is made of: every entry, as its hash was made."""
    with context.store.read() as tx:
        found = audit.page(tx, after=after, limit=limit + 1)
    rows = first_of(found, limit, request, response, after=lambda row: row.sequence)
    return [SealedEntry(**{**asdict(row), "at": to_ms(row.at)}) for row in rows]


@router.get("/head")
def read_head(
    _reader: Reader,
    context: Context,
    first: Annotated[int, Query(ge=1, le=NUMBER_MAX)] = 1,
    last: Annotated[
        int | None, Query(ge=0, le=NUMBER_MAX, description="the newest entry without it")
    ] = None,
) -> SignedHeadFile:
    """Signed now by the audit log's own key: what to keep elsewhere."""
    settings = context.settings
    signer = signed_head.open_key(settings.keys_dir)
    with context.store.read() as tx:
        signed = checking.sign_now(
            tx, signer, fleet=settings.fleet, now=context.now(), first=first, last=last
        )
    return SignedHeadFile.model_validate_json(signed.text)


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
        keyid = signed_head.open_key(context.settings.keys_dir).public_key.keyid
        with context.store.read() as tx:
            found = checking.check(tx, keyid)
    finally:
        _verifying.release()
    return Verification(holds=found.broken_at is None, **asdict(found))


def _told(tx: Transaction, rows: Sequence[AuditRow]) -> list[Entry]:
    about = [release_of(tx, row) for row in rows]
    traces = [None if each is None else trace_id(each.digest) for each in about]
    return [Entry(**asdict(row), trace_id=trace) for row, trace in zip(rows, traces, strict=True)]
