"""Request bodies are bounded before any handler sees them.

Everything but an artifact upload is small, so the whole body is read first; a client that sends
more gets 413 and its connection is closed. Uploads stream and count for themselves.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mailboat_controller.api.problems import MEDIA_TYPE
from mailboat_schemas.errors import PayloadTooLarge

BODY_BYTES_MAX = 1 << 20  # the largest is a submission, 512 KiB
STREAMED_PREFIX = "/v1/artifacts/"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class BodyLimit:
    """ASGI middleware."""

    def __init__(self, app: App, *, body_bytes_max: int = BODY_BYTES_MAX) -> None:
        self._app = app
        self._body_bytes_max = body_bytes_max

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(STREAMED_PREFIX):
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        size_bytes = int(declared) if declared.isdigit() else 0
        body = bytearray()
        more = size_bytes <= self._body_bytes_max
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False) and len(body) <= self._body_bytes_max
        if max(size_bytes, len(body)) > self._body_bytes_max:
            await _refuse(send, max(size_bytes, len(body)), self._body_bytes_max)
            return
        await self._app(scope, _replay(bytes(body), receive), send)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()  # the disconnect, when it comes
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(send: Send, size_bytes: int, size_bytes_max: int) -> None:
    error = PayloadTooLarge("request body", size_bytes, size_bytes_max)
    content = {
        "type": "about:blank",
        "title": "Content Too Large",
        "status": 413,
        "code": error.code,
        "detail": error.what,
        "next_step": error.next_step,
    }
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})
