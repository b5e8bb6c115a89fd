"""What stands before the artifacts: a site's cache, a mirror, a proxy. It may answer anything."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

import pytest

from attack_siege import Siege
from mailboat_agent.artifacts.download import HttpsSource
from mailboat_agent.identity.device_key import tls_context
from model_fleet import MODEL, Certificates

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
MODEL_LENGTH = 60_000  # long enough that a drip would last
IMPATIENT = {"rate_window_seconds": 0.3, "deadline_seconds_min": 0.6}


@asynccontextmanager
async def poisoned(siege: Siege, answer: Answer, **limits: Any) -> AsyncIterator[None]:
    """The device's artifacts come from a cache that answers like this, for what it is asked."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split()[1].decode()
            await answer(siege.fleet.artifacts.get(path.rpartition("/")[2], b""), writer)
        writer.close()

    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*siege.certificates.server())
    server = await asyncio.start_server(converse, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    honest = siege.box.source
    trusted = tls_context(siege.certificates.ca_path)
    siege.box.source = HttpsSource(f"https://127.0.0.1:{port}", trusted, **limits)
    try:
        yield
    finally:
        await siege.box.source.close()
        siege.box.source = honest
        server.close()


async def attempt(siege: Siege, answer: Answer, **limits: Any) -> None:
    """The device is offered a good release and asks this cache for it, once."""
    second = siege.fleet.model_release("1.1.0", factor=3.0)
    async with poisoned(siege, answer, **limits):
        siege.box.take(siege.fleet.offered(second, siege.current))
        siege.remember()
        await siege.box.until(lambda: siege.box.reconciler.loops[MODEL]._staging.trouble != "")
    assert "trial_started 1.1.0" not in siege.box.told()


async def test_other_bytes_of_the_right_length(siege: Siege) -> None:
    async def answer(content: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + bytes(len(content)))

    await attempt(siege, answer)
    await siege.assert_refused("E-DIGEST")


@pytest.mark.slow
async def test_the_artifact_of_another_release(siege: Siege) -> None:
    other = siege.fleet.model_release("0.9.0", factor=9.0)
    document = siege.fleet.documents[other.digest]
    assert b"0.9.0" in document

    async def answer(content: bytes, writer: asyncio.StreamWriter) -> None:
        swapped = content.replace(b"factor", b"rotcaf").replace(b"in.x", b"ni.x")
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + swapped)

    await attempt(siege, answer)
    await siege.assert_refused("E-DIGEST")


async def test_more_bytes_than_were_signed(siege: Siege) -> None:
    async def answer(content: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % (len(content) + 1) + content + b"!")

    await attempt(siege, answer)
    await siege.assert_refused("E-TOO-LONG")


@pytest.mark.slow
async def test_bytes_without_end(siege: Siege) -> None:
    async def answer(content: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"\r\n")
        while True:
            writer.write(content)
            await writer.drain()

    await attempt(siege, answer)
    await siege.assert_refused("E-TOO-LONG")
    assert siege.box.store.staged_bytes_of_all() <= MODEL_LENGTH


@pytest.mark.slow
async def test_a_slow_drip_of_the_body(siege: Siege) -> None:
    async def answer(content: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(content))
        for byte in content:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)

    await attempt(siege, answer, **IMPATIENT)
    await siege.assert_refused("E-TOO-SLOW")


async def test_a_slow_drip_of_the_headers(siege: Siege) -> None:
    async def answer(content: bytes, writer: asyncio.StreamWriter) -> None:
        for byte in HEAD * 100:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)

    await attempt(siege, answer, **IMPATIENT)
    await siege.assert_refused("E-TOO-SLOW")


async def test_a_body_that_unpacks_into_more(siege: Siege) -> None:
    """Nothing between the signer and the device may encode; a bomb is not even opened."""

    async def answer(content: bytes, writer: asyncio.StreamWriter) -> None:
        bomb = gzip.compress(bytes(1 << 24))
        head = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
        writer.write(head + bomb)

    await attempt(siege, answer)
    assert "encoded" in siege.box.reconciler.loops[MODEL]._staging.trouble
    assert siege.box.store.staged_bytes_of_all() <= MODEL_LENGTH
    await siege.assert_serves()


async def test_a_redirection_to_somewhere_else(siege: Siege) -> None:
    elsewhere = f"{siege.server.url}/v1/artifacts/sha256/elsewhere".encode()

    async def answer(content: bytes, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 302 Found\r\nConnection: close\r\nContent-Length: 0\r\nLocation: "
        writer.write(head + elsewhere + b"\r\n\r\n")

    await attempt(siege, answer)
    assert "/v1/artifacts/sha256/elsewhere" not in siege.server.requests
    await siege.assert_serves()


async def test_a_server_with_a_certificate_of_another_authority(siege: Siege) -> None:
    siege.certificates = Certificates(siege.directory / "other-pki")

    async def answer(content: bytes, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("nobody may ask")

    honest_ca = siege.box._tls
    second = siege.fleet.model_release("1.1.0", factor=3.0)
    async with poisoned(siege, answer):
        await siege.box.source.close()
        url = str(siege.box.source._client.base_url)
        siege.box.source = HttpsSource(url, honest_ca)
        siege.box.take(siege.fleet.offered(second, siege.current))
        siege.remember()
        await siege.box.until(lambda: siege.box.reconciler.loops[MODEL]._staging.trouble != "")
    assert "cannot be reached" in siege.box.reconciler.loops[MODEL]._staging.trouble
    await siege.assert_serves()


async def test_wrong_bytes_once_do_not_keep_the_right_ones_out(siege: Siege) -> None:
    """Not an attack: the cache was repaired, and a new manifest says so."""

    async def answer(content: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + bytes(len(content)))

    await attempt(siege, answer)
    second = siege.fleet.model_release("1.1.0", factor=3.0)
    await siege.box.install(siege.fleet.offered(second, siege.current), "1.1.0")
    await siege.assert_serves("1.1.0", 3.0)
