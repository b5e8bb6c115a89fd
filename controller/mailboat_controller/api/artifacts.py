"""Artifacts by digest. A digest never means other bytes, so everything may be cached for ever."""

import hashlib
import itertools
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from mailboat_controller.access.artifact_tokens import LIFE_MAX, Grant
from mailboat_controller.api import etags, ranges
from mailboat_controller.api.context import ApiContext, Context
from mailboat_controller.api.identity import (
    PUBLISHERS,
    Caller,
    Downloader,
    Fetcher,
    Person,
    Publisher,
)
from mailboat_controller.api.once_told import OnceTold
from mailboat_controller.api.problems import PROBLEM, problem
from mailboat_controller.artifacts.artifact_store import Upload, missing_artifact
from mailboat_controller.pki.certificates import Holder
from mailboat_controller.store import audit
from mailboat_controller.worker_threads import WorkerThreads
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.names import DIGEST_PATTERN, Digest

WRITE_BYTES = 1 << 20  # gathered before a thread writes them
NEVER_MODIFIED = "Thu, 01 Jan 1970 00:00:00 GMT"
LIFE_SECONDS_MAX = int(LIFE_MAX.total_seconds())
MEDIA_TYPE = "application/octet-stream"
ACCEPT_REDIRECT = "Mailboat-Accept-Redirect"
CACHE_FOR_EVER = "public, max-age=31536000, immutable"

router = APIRouter(prefix="/v1/artifacts", tags=["artifacts"])
DigestPath = Annotated[str, Path(pattern=DIGEST_PATTERN)]
_log = structlog.get_logger(__name__)


class ArtifactTokenOrder(BaseModel):
    digest: Digest
    seconds: int = Field(default=LIFE_SECONDS_MAX, ge=1, le=LIFE_SECONDS_MAX)


class ArtifactToken(BaseModel):
    """For ``Authorization: Bearer …`` at the artifact's own address, and nowhere else."""

    token: str
    path: str
    expires_at: datetime


@router.post("/tokens", status_code=201, dependencies=[OnceTold])
def create_artifact_token(
    order: ArtifactTokenOrder, fetcher: Fetcher, context: Context
) -> ArtifactToken:
    """A token that opens one artifact for a quarter of an hour at most: for a site's cache or a
    tool that has no certificate. It ends early when whoever asked for it is revoked."""
    if not context.artifacts.has(order.digest):
        raise missing_artifact(order.digest)
    now = context.now()
    token, expires_at = context.artifact_tokens.issue(
        order.digest,
        holder=str(fetcher),
        credential=_credential(fetcher),
        now=now,
        life=timedelta(seconds=order.seconds),
    )
    with context.store.transaction() as tx:
        audit.append(
            tx,
            at=now,
            actor=str(fetcher),
            action="artifact_token.create",
            subject=order.digest,
            reason="asked for by its holder, to fetch this file by",
            details={"expires_at": expires_at.isoformat()},
        )
    return ArtifactToken(
        token=token, path=f"{router.prefix}/sha256/{order.digest}", expires_at=expires_at
    )


def _credential(caller: Caller) -> str:
    return caller.token_id if isinstance(caller, Person) else caller.serial


@router.head("/sha256/{digest}", response_class=Response, include_in_schema=False)
@router.get(
    "/sha256/{digest}",
    response_class=Response,
    responses={
        **etags.described(MEDIA_TYPE),
        206: {"description": "The part that Range names.", "content": etags.content_of(MEDIA_TYPE)},
        307: {"description": "The bytes are at Location, for a quarter of an hour."},
        416: {"description": "No byte of that range is there."},
    },
)
async def get_artifact(
    digest: DigestPath, request: Request, downloader: Downloader, context: Context
) -> Response:
    """The bytes. Knows Range and If-Range, so an interrupted download goes on where it stopped.

    Whoever sends `Mailboat-Accept-Redirect: 1` may be sent to the object store instead; a site's
    cache must not, because it keeps what it gets under this address.
    """
    return await context.artifact_threads.run(_download, digest, request, downloader, context)


def _download(
    digest: str, request: Request, downloader: Caller | Grant, context: ApiContext
) -> Response:
    length = context.artifacts.length(digest)
    if length is None:
        raise missing_artifact(digest)
    headers = {
        "ETag": etags.quoted(digest),
        "Cache-Control": CACHE_FOR_EVER,
        "Accept-Ranges": "bytes",
        "Last-Modified": NEVER_MODIFIED,  # validated by its ETag alone
    }
    if etags.matches(request, digest):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        if isinstance(downloader, Person | Holder) and downloader.kind in PUBLISHERS:
            context.artifact_care.renew(digest)  # who asks is about to name it
        headers["Content-Length"] = str(length)
        return Response(headers=headers, media_type=MEDIA_TYPE)
    redirect = _redirect(digest, request, downloader, context)
    if redirect is not None:
        _redeem(digest, downloader, context)
        return redirect
    part = ranges.wanted(request, digest, length)
    if part is None:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{length}"})
    _note(digest, request, downloader, "artifact fetched by token")
    _redeem(digest, downloader, context)
    headers["Content-Length"] = str(part.end - part.start)
    if part.partial:
        headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{length}"
    return StreamingResponse(
        _streamed(_begun(context.artifacts.read(digest, part.start, part.end)), context),
        status_code=206 if part.partial else 200,
        headers=headers,
        media_type=MEDIA_TYPE,
    )


def _redirect(
    digest: str, request: Request, downloader: Caller | Grant, context: ApiContext
) -> Response | None:
    """To the object store's own address of it, for whoever says they can take that."""
    life = context.settings.artifacts.presigned_life
    if life is None or request.headers.get(ACCEPT_REDIRECT) != "1":
        return None
    address = context.artifacts.presigned(digest, life)
    if address is None:
        return None
    # The address opens the artifact to whoever reads it, so it is told to the caller alone.
    _note(digest, request, downloader, "artifact redirected", always=True)
    headers = {"Location": address, "Cache-Control": "no-store", "Vary": ACCEPT_REDIRECT}
    return Response(status_code=307, headers=headers)


def _note(
    digest: str, request: Request, who: Caller | Grant, what: str, *, always: bool = False
) -> None:
    """Who could have these bytes, should that ever be asked; a token's own asking is audited."""
    if always or isinstance(who, Grant):
        _log.info(
            what,
            digest=digest,
            holder=str(who),
            address=request.client.host if request.client else "",
            range=request.headers.get("range", "")[:64],
        )


def _redeem(digest: str, who: Caller | Grant, context: ApiContext) -> None:
    """A device gets bytes, by its certificate or by a token that it asked for."""
    kind, _, name = str(who).partition(":")
    if kind == Kind.DEVICE:
        context.redemptions.note(name, digest, context.now())


def _begun(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """With its first chunk read: a store that fails at once still becomes a proper answer."""
    first = next(chunks, b"")
    return itertools.chain((first,), chunks)


async def _streamed(chunks: Iterator[bytes], context: ApiContext) -> AsyncIterator[bytes]:
    while (chunk := await context.artifact_threads.run(next, chunks, None)) is not None:
        yield chunk


@router.put(
    "/sha256/{digest}",
    response_class=Response,
    responses={
        200: {"description": "These bytes were here."},
        201: {"description": "These bytes are new."},
        411: {"description": "It does not say how long it is.", "content": PROBLEM},
        413: {"description": "It is longer than it says.", "content": PROBLEM},
    },
    openapi_extra={"requestBody": {"required": True, "content": etags.content_of(MEDIA_TYPE)}},
)
async def put_artifact(
    digest: DigestPath, request: Request, publisher: Publisher, context: Context
) -> Response:
    """Put if absent: 201 when these bytes are new, 200 when they were here."""
    threads = context.artifact_threads
    declared = request.headers.get("content-length", "")
    if not declared.isdigit():
        return problem(
            411,
            code="E-LENGTH-REQUIRED",
            detail="An upload announces its length in Content-Length.",
            next_step="send the file with its length, not in chunks.",
        )
    length = int(declared)
    if await threads.run(context.artifacts.has, digest, length):
        await threads.run(context.artifact_care.renew, digest)
        # Whoever waits for "100 Continue" never sends the body; everybody else does in any case.
        if request.headers.get("expect", "").lower() != "100-continue":
            return await _compare(digest, request)
        return _stored(200, digest)
    upload = await threads.run(context.artifacts.begin, digest, length)
    try:
        await _receive(upload, request, threads)
        await threads.run(upload.commit)
    finally:
        await threads.run(upload.abort)
    await threads.run(_record, digest, length, str(publisher), context)
    return _stored(201, digest)


def _record(digest: str, length: int, actor: str, context: ApiContext) -> None:
    with context.store.transaction() as tx:
        audit.append(
            tx,
            at=context.now(),
            actor=actor,
            action="artifact.put",
            subject=digest,
            reason="uploaded; its bytes are what its name says",
            details={"length": length},
        )
        context.artifact_care.stored(tx, digest, str(actor))


async def _receive(upload: Upload, request: Request, threads: WorkerThreads) -> None:
    gathered = bytearray()
    async for chunk in request.stream():
        gathered += chunk
        if len(gathered) >= WRITE_BYTES:
            await threads.run(upload.write, bytes(gathered))
            gathered.clear()
    if gathered:
        await threads.run(upload.write, bytes(gathered))


async def _compare(digest: str, request: Request) -> Response:
    """Read the body of bytes we have, so that its sender hears us; say so if they are others."""
    seen = hashlib.sha256()
    async for chunk in request.stream():
        seen.update(chunk)
    if seen.hexdigest() == digest:
        return _stored(200, digest)
    return problem(
        422,
        code="E-DIGEST",
        detail=f"The uploaded artifact has sha256 {seen.hexdigest()}, its name says {digest}.",
        next_step="upload it again; the artifact held here is unharmed.",
    )


def _stored(status: int, digest: str) -> Response:
    return Response(status_code=status, headers={"ETag": etags.quoted(digest)})
