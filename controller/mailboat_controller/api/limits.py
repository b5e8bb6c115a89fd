"""Bounds of requests: of their values, and of bodies before any handler sees them.

Everything but an artifact upload is small, so the whole body is read first, within a time; a client
that sends more gets 413 and its connection is closed. Uploads stream and count for themselves.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Response
from pydantic import StringConstraints

from mailboat_controller.api.identity import IDENTITY, Person
from mailboat_controller.api.problems import problem, problem_of
from mailboat_controller.pki.certificates import Holder
from mailboat_schemas.errors import PayloadTooLarge, ServerUnavailable

BODY_BYTES_MAX = 1 << 20  # the largest is a submission, 512 KiB
# A stranger has only an enrolment to send; anybody could make us hold more.
STRANGERS_BODY_BYTES_MAX = 64 * 1024
# Read and thrown away of a body that is too large: a client that still sends when the connection is
# closed sees a broken pipe in place of the answer that says why.
DRAINED_BYTES_MAX = 4 << 20
DRAIN_SECONDS_MAX = 1.0
BODY_SECONDS_MAX = 30.0  # one that drips keeps a connection from somebody else
STREAMED_PREFIX = "/v1/artifacts/sha256/"
NUMBER_MAX = (1 << 63) - 1  # what a database column holds
PRINTED = r"^[^\x00]*$"  # PostgreSQL's text takes everything but the zero character

Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=1000, pattern=PRINTED),
]

# Of a change that cuts nobody off.
OptionalReason = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=1000, pattern=PRINTED)
]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class HeadAsGet:
    """ASGI middleware: whatever can be got can be asked for without its body (RFC 9110, 9.3.2).

    The server leaves the body out, because the scope it holds still says HEAD. Artifacts have a
    handler of their own: a body that nobody sees would be read from the disk.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope.get("method") == "HEAD" and not scope["path"].startswith(STREAMED_PREFIX):
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


class BodyLimit:
    """ASGI middleware."""

    def __init__(
        self,
        app: App,
        *,
        body_bytes_max: int = BODY_BYTES_MAX,
        strangers_body_bytes_max: int = STRANGERS_BODY_BYTES_MAX,
        body_seconds_max: float = BODY_SECONDS_MAX,
    ) -> None:
        self._app = app
        self._body_bytes_max = body_bytes_max
        self._strangers_body_bytes_max = strangers_body_bytes_max
        self._body_seconds_max = body_seconds_max

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(STREAMED_PREFIX):
            await self._app(scope, receive, send)
            return
        bytes_max = self._body_bytes_max if _known(scope) else self._strangers_body_bytes_max
        try:
            async with asyncio.timeout(self._body_seconds_max):
                body = await _read(scope, receive, bytes_max)
        except PayloadTooLarge as error:
            await _close_with(problem_of(error), scope, receive, send)
        except TimeoutError:
            slow = ServerUnavailable(
                f"The request's body took more than {self._body_seconds_max:g} s.",
                next_step="send it again over a better connection.",
            )
            answer = problem(
                HTTPStatus.REQUEST_TIMEOUT,
                code=slow.code,
                detail=slow.what,
                next_step=slow.next_step,
            )
            await _close_with(answer, scope, receive, send)
        else:
            if body is not None:
                await self._app(scope, replay_body(body, receive), send)


def _known(scope: Message) -> bool:
    """Whether the gate found somebody; it stands before this."""
    found = scope.get("state", {}).get(IDENTITY)
    return isinstance(found, Person | Holder)


async def _read(scope: Message, receive: Receive, bytes_max: int) -> bytes | None:
    """The whole body, or None when the client has gone.

    Raises:
        PayloadTooLarge: announced or sent.
    """
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    size_bytes = int(declared) if declared.isdigit() else 0
    body, more = bytearray(), True
    while more:
        if max(size_bytes, len(body)) > bytes_max:
            await drain(receive)
            raise PayloadTooLarge("request body", max(size_bytes, len(body)), bytes_max)
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if len(body) > bytes_max:
        raise PayloadTooLarge("request body", len(body), bytes_max)
    return bytes(body)


async def drain(receive: Receive) -> None:
    """Read and throw away a bounded part of a body, so that its sender reads our answer."""
    drained, more = 0, True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS_MAX):
            while more and drained <= DRAINED_BYTES_MAX:
                message = await receive()
                drained += len(message.get("body", b""))
                more = message.get("more_body", False)


async def whole_body(receive: Receive) -> bytes | None:
    """What `BodyLimit` has let through, or None when the client has gone."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


def replay_body(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read to whoever asks next."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()  # the disconnect, when it comes
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _close_with(answer: Response, scope: Message, receive: Receive, send: Send) -> None:
    answer.headers["Connection"] = "close"
    await answer(scope, receive, send)
