"""An HTTPS server that answers as a test wants, and remembers what it was asked."""

import asyncio
import hashlib
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from mailboat_agent.artifacts.download import HttpsSource
from mailboat_agent.identity.device_key import tls_context
from mailboat_controller.pki.issuing import Authority

CONTENT = os.urandom(200_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Request:
    line: str
    headers: dict[str, str]
    body: bytes


Handler = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """Answers every connection with ``handler`` and remembers what it was asked."""

    tls: ssl.SSLContext
    trusted: ssl.SSLContext
    handler: Handler | None = None
    requests: list[Request] = field(default_factory=list)

    @asynccontextmanager
    async def source(self, handler: Handler, **limits: float) -> AsyncIterator[HttpsSource]:
        self.handler = handler
        server = await asyncio.start_server(self._converse, "127.0.0.1", 0, ssl=self.tls)
        port = server.sockets[0].getsockname()[1]
        source = HttpsSource(f"https://localhost:{port}", self.trusted, **limits)  # type: ignore[arg-type]
        try:
            yield source
        finally:
            await source.close()
            server.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            pairs = (line.split(": ", 1) for line in head[1:] if line)
            headers = {name.lower(): value for name, value in pairs}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            request = Request(head[0], headers, body)
            self.requests.append(request)
            assert self.handler is not None
            await self.handler(request, writer)
        writer.close()


async def send(
    writer: asyncio.StreamWriter, status: str, body: bytes = b"", **headers: object
) -> None:
    """An answer with a Content-Length, unless one is given; ``None`` leaves a header out."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    given = {"Content-Length": len(body), "Connection": "close", **given}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items() if value is not None)
    writer.write(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body)
    await writer.drain()


async def honest(request: Request, writer: asyncio.StreamWriter) -> None:
    """What the controller does: resumes when the ETag is still the same."""
    asked = request.headers.get("range")
    if asked is not None and request.headers.get("if-range") == f'"{DIGEST}"':
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        place = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        await send(writer, "206 Partial Content", CONTENT[start:], Content_Range=place)
    else:
        await send(writer, "200 OK", CONTENT)


async def endless(request: Request, writer: asyncio.StreamWriter) -> None:
    await send(writer, "200 OK", Content_Length=None)
    while not writer.is_closing():
        writer.write(bytes(50_000))
        await writer.drain()
        await asyncio.sleep(0)  # drain alone does not always let the other side have a turn


def answering(status: str, body: bytes = b"", **headers: object) -> Handler:
    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        await send(writer, status, body, **headers)

    return handler


def certificates_in(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server at localhost, and what its clients trust it by."""
    now = datetime.now(UTC)
    authority = Authority.create(directory / "ca", "demo", now=now)
    files = authority.server_files(["localhost"], now=now)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(files.certificate, files.key)
    return tls, tls_context(authority.ca_path)
