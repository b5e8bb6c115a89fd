"""A bad link: a TCP proxy that is slow, cuts every few seconds and resets some connections."""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

READ_BYTES = 16 * 1024


@dataclass
class BadLink:
    """``down_bytes`` is what went towards the clients, TLS and HTTP included."""

    upstream: int  # port on loopback
    rng: random.Random
    cut_seconds: tuple[float, float] | None = None  # a connection lives so long, by chance
    resets_of_100: float = 0  # new connections that are reset before the first byte
    bytes_per_second: int | None = None  # of each connection, downward
    port: int = 0
    down_bytes: int = 0
    connections: int = 0
    cuts: int = 0
    resets: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["BadLink"]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(asyncio.CancelledError, OSError):  # the end of the test; nobody beyond
                await self._converse(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.rng.random() * 100 < self.resets_of_100:
            self.resets += 1
            _reset(writer)
            return
        beyond, towards = await asyncio.open_connection("127.0.0.1", self.upstream)
        pumps = (
            asyncio.create_task(self._up(reader, towards)),
            asyncio.create_task(self._down(beyond, writer)),
        )
        try:
            life = None if self.cut_seconds is None else self.rng.uniform(*self.cut_seconds)
            done, _ = await asyncio.wait(pumps, timeout=life, return_when=asyncio.FIRST_COMPLETED)
            self.cuts += not done
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            towards.close()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(READ_BYTES):
                writer.write(chunk)
                await writer.drain()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(READ_BYTES):
                writer.write(chunk)
                await writer.drain()
                self.down_bytes += len(chunk)
                if self.bytes_per_second is not None:
                    await asyncio.sleep(len(chunk) / self.bytes_per_second)


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
