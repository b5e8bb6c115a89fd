"""The thread that the front runs in: an event loop, the connections, who has waited too long."""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence

from mailboat_agent.serving.front.connection import RECEIVE_BYTES, Connection
from mailboat_agent.serving.front.listeners import BACKLOG
from mailboat_agent.serving.front.request import Application, Patience, Welcome
from mailboat_agent.serving.front.room import Room

CONNECTIONS_MAX = 1500  # idle ones cost 2 KiB each; at the bound a newcomer gets 503
REFUSED_MAX = (
    128  # newcomers that are being told so; more are cut off, or descriptors would run out
)
SWEEP_SECONDS = 0.25  # how much later than allowed a slow client is cut off
CLOSE_SECONDS_MAX = 10.0  # for requests under way when the server closes
START_SECONDS_MAX = 10.0
_CLOSE_LOOK_SECONDS = 0.01

_log = logging.getLogger(__name__)


class Server:
    """Serves on sockets that listen already, from `start` until `close`."""

    def __init__(
        self,
        make_application: Callable[[], Application],
        sockets: Sequence[socket.socket],
        *,
        room: Room,
        patience: Patience,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        """``make_application`` is called in the event loop's thread."""
        self._make_application = make_application
        self._sockets = tuple(sockets)
        self._room = room
        self._patience = patience
        self._connections_max = connections_max
        self._connections: set[Connection] = set()
        self._received = bytearray(RECEIVE_BYTES)
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="serving-gateway", daemon=True)

    def start(self) -> bool:
        """False if it did not; the log says why."""
        self._thread.start()
        return self._started.wait(START_SECONDS_MAX)

    def close(self) -> None:
        """Accept no more, let what runs finish, end the thread."""
        if self._started.is_set() and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(2 * CLOSE_SECONDS_MAX)
        for each in self._sockets:
            each.close()

    # --- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception:  # noqa: BLE001 - the watchdog and the callers will notice
            _log.exception("The gateway ended.")

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        application = self._make_application()
        servers = [
            await self._loop.create_server(lambda: self._connection(application), sock=each)
            if each.family != socket.AF_UNIX
            else await self._loop.create_unix_server(
                lambda: self._connection(application), sock=each
            )
            for each in self._sockets
        ]
        for each in self._sockets:
            each.listen(BACKLOG)  # asyncio has set its own, and a thousand come at once
        self._started.set()
        sweep = asyncio.create_task(self._sweep())
        await self._stop.wait()
        for server in servers:
            server.close()
        await self._let_finish()
        sweep.cancel()

    def _connection(self, application: Application) -> Connection:
        return Connection(
            application,
            room=self._room,
            received=self._received,
            patience=self._patience,
            connections=self._connections,
            welcome=self._welcome,
        )

    def _welcome(self) -> Welcome:
        too_many = len(self._connections) - self._connections_max
        if too_many < 0:
            return Welcome.SERVED
        return Welcome.REFUSED if too_many < REFUSED_MAX else Welcome.CUT_OFF

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.monotonic()
            for connection in [each for each in self._connections if each.expires < now]:
                try:
                    connection.expire()
                except Exception:  # noqa: BLE001 - else no client would be cut off any more
                    _log.exception("A connection could not be ended.")

    async def _let_finish(self) -> None:
        give_up = time.monotonic() + CLOSE_SECONDS_MAX
        while self._connections and time.monotonic() < give_up:
            for connection in tuple(self._connections):
                connection.end_soon()
            await asyncio.sleep(_CLOSE_LOOK_SECONDS)
        for connection in tuple(self._connections):
            connection.cut()
        await asyncio.sleep(0)
