"""Bounds of requests: of their values, and of bodies before any handler sees them.

Everything but an artifact upload is small, so the whole body is read first, within a time; a client
that sends more gets 413 and its connection is closed. Uploads stream and count for themselves.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Annotated, Any

from pydantic import StringConstraints

from mailboat_controller.api.problems import MEDIA_TYPE
from mailboat_controller.https_server import CLIENT_CERTIFICATE, EXTENSION
from mailboat_schemas.errors import MailboatError, PayloadTooLarge, ServerUnavailable

BODY_BYTES_MAX = 1 << 20  # the largest is a submission, 512 KiB
# Without a certificate there is only an enrolment to send; anybody could make us hold more.
STRANGERS_BODY_BYTES_MAX = 64 * 1024
# Read and thrown away of a body that is too large: a client that still sends when the connection is
# closed sees a broken pipe in place of the answer that says why.
DRAINED_BYTES_MAX = 4 << 20
DRAIN_SECONDS_MAX = 1.0
BODY_SECONDS_MAX = 30.0  # one that drips keeps a connection from somebody else
STREAMED_PREFIX = "/v1/artifacts/"
NUMBER_MAX = (1 << 63) - 1  # what a database column holds
PRINTED = r"^[^\x00]*$"  # PostgreSQL's text takes everything but the zero character

Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=1000, pattern=PRINTED),
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
            await _refuse(send, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error)
        except TimeoutError:
            slow = ServerUnavailable(
                f"The request's body took more than {self._body_seconds_max:g} s.",
                next_step="send it again over a better connection.",
            )
            await _refuse(send, HTTPStatus.REQUEST_TIMEOUT, slow)
        else:
            if body is not None:
                await self._app(scope, _replay(body, receive), send)


def _known(scope: Message) -> bool:
    tls = (scope.get("extensions") or {}).get(EXTENSION) or {}
    return tls.get(CLIENT_CERTIFICATE) is not None


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
            await _drain(receive)
            raise PayloadTooLarge("request body", max(size_bytes, len(body)), bytes_max)
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if len(body) > bytes_max:
        raise PayloadTooLarge("request body", len(body), bytes_max)
    return bytes(body)


async def _drain(receive: Receive) -> None:
    drained, more = 0, True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS_MAX):
            while more and drained <= DRAINED_BYTES_MAX:
                message = await receive()
                drained += len(message.get("body", b""))
                more = message.get("more_body", False)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()  # the disconnect, when it comes
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(send: Send, status: HTTPStatus, error: MailboatError) -> None:
    content = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status,
        "code": error.code,
        "detail": error.what,
        "next_step": error.next_step,
    }
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})
