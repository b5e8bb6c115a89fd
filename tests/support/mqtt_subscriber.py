"""A subscriber small enough to run a thousand of: MQTT 3.1.1 over TLS, QoS 1, on asyncio.

Clients of the libraries we ship take a thread each. This one speaks just what the test needs of
MQTT 3.1.1 (OASIS standard, sections 3.1 to 3.9), as a device of its own certificate.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable

_CONNECT, _PUBLISH, _PUBACK, _SUBSCRIBE = 0x10, 0x30, 0x40, 0x82
_CONNACK, _SUBACK = 0x20, 0x90
KEEPALIVE_SECONDS = 600


class Subscriber:
    """Connected as ``name``; tells every retained or live message of its topics."""

    def __init__(self, name: str, on_message: Callable[[str, str, bytes], None]) -> None:
        self.name = name
        self._on_message = on_message
        self._subscribed = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    async def connect(self, port: int, context: ssl.SSLContext, topic: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        self._writer = writer
        header = _text("MQTT") + bytes([4, 0x02]) + KEEPALIVE_SECONDS.to_bytes(2)
        writer.write(_packet(_CONNECT, header + _text(self.name)))
        writer.write(_packet(_SUBSCRIBE, b"\0\1" + _text(topic) + b"\1"))
        self._task = asyncio.create_task(self._read(reader, writer))
        await asyncio.wait_for(self._subscribed.wait(), 60)

    async def publish(self, topic: str, payload: bytes) -> None:
        assert self._writer is not None
        self._writer.write(_packet(_PUBLISH | 2, _text(topic) + b"\0\2" + payload))
        await self._writer.drain()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._writer is not None:
            self._writer.transport.abort()
            with contextlib.suppress(OSError, ssl.SSLError):
                await self._writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            kind = (await reader.readexactly(1))[0]
            body = await reader.readexactly(await _length(reader))
            if kind & 0xF0 == _CONNACK:
                assert body[1] == 0, f"{self.name} was refused: {body[1]}"
            elif kind == _SUBACK:
                self._subscribed.set()
            elif kind & 0xF0 == _PUBLISH:
                self._take(kind, body, writer)

    def _take(self, kind: int, body: bytes, writer: asyncio.StreamWriter) -> None:
        end = 2 + int.from_bytes(body[:2])
        topic, rest = body[2:end].decode(), body[end:]
        if kind & 0x06:
            writer.write(_packet(_PUBACK, rest[:2]))
            rest = rest[2:]
        self._on_message(self.name, topic, rest)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return len(encoded).to_bytes(2) + encoded


def _packet(kind: int, body: bytes) -> bytes:
    length, size = bytearray(), len(body)
    while True:
        size, low = divmod(size, 128)
        length.append(low | (0x80 if size else 0))
        if not size:
            return bytes([kind]) + bytes(length) + body


async def _length(reader: asyncio.StreamReader) -> int:
    value, shift = 0, 0
    while True:
        byte = (await reader.readexactly(1))[0]
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value
