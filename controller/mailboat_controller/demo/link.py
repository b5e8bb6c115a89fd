"""A device's network in the demo: a relay on loopback that can be cut and mended.

Each device reaches the broker and the API through relays of its own. A cut closes what is open and
refuses what comes, like a pulled cable; no root is needed for it. TLS goes through untouched.
"""

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 1 << 16
_START_SECONDS_MAX = 10
_CONNECTIONS_MAX = 64


class Relay:
    """Listens on a loopback port of its own and passes bytes to one other port."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self._up = True
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def set_up(self, up: bool) -> None:
        self._up = up
        if not up:
            for writer in list(self._writers):
                writer.transport.abort()

    async def stop(self) -> None:
        await self.set_up(False)
        if self._server is not None:
            self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Known from here on, so that a cut finds it even while the far side is being reached.
        ends = {writer}
        if self._up and len(self._writers) < 2 * _CONNECTIONS_MAX:
            self._writers |= ends
        else:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            ends.add(far_writer)
            self._writers |= ends
            await asyncio.gather(_pipe(reader, far_writer), _pipe(far_reader, writer))
            for each in ends:  # both sides have said everything: let it arrive
                each.close()
            for each in ends:
                await each.wait_closed()
        except OSError:
            pass  # a side that broke off breaks the other too, as one cable would
        finally:
            self._writers -= ends
            for each in ends:
                each.transport.abort()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
    writer.write_eof()


async def _end_connections() -> None:
    """Let what was aborted come to its end, so that nothing is left when the loop closes."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class Link:
    """One device's way to the centre: a relay to the broker and one to the API."""

    def __init__(self, wires: "Wires", mqtt: Relay, api: Relay) -> None:
        self._wires = wires
        self._relays = (mqtt, api)
        self.up = True

    @property
    def mqtt_port(self) -> int:
        return self._relays[0].port

    @property
    def api_port(self) -> int:
        return self._relays[1].port

    def cut(self) -> None:
        self._set(False)

    def mend(self) -> None:
        self._set(True)

    def _set(self, up: bool) -> None:
        for relay in self._relays:
            self._wires.run(relay.set_up(up))
        self.up = up


class Wires:
    """All links of a demo, relayed by one thread. Use as a context manager."""

    def __init__(self, *, mqtt_port: int, api_port: int) -> None:
        self._ports = (mqtt_port, api_port)
        self._relays: list[Relay] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for relay in self._relays:
            self.run(relay.stop())
        self.run(_end_connections())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_START_SECONDS_MAX)
        self._loop.close()

    def link(self) -> Link:
        mqtt, api = (Relay(port) for port in self._ports)
        for relay in (mqtt, api):
            self.run(relay.start())
        self._relays += [mqtt, api]
        return Link(self, mqtt, api)

    def run(self, work: Coroutine[object, object, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_START_SECONDS_MAX)
