"""The device's own HTTP front: Open Inference Protocol v2 on loopback and on a Unix socket.

A thread with an event loop of its own. Between the sockets and the runtime there is no web
framework: on a device one costs more memory and more time than the protocol needs (docs/adr).
"""

import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from mailboat_agent.overlays.shown import Shown
from mailboat_agent.serving.answering import Answering, ByRelease
from mailboat_agent.serving.feedback import Feedback
from mailboat_agent.serving.front.listeners import UnixListener, allow_descriptors, listen_tcp
from mailboat_agent.serving.front.request import Patience
from mailboat_agent.serving.front.room import Room
from mailboat_agent.serving.front.routes import Routes
from mailboat_agent.serving.front.server import CONNECTIONS_MAX, Server
from mailboat_agent.serving.runtime import Runtime
from mailboat_schemas.errors import ConfigurationInvalid

REQUEST_SECONDS_MAX = 10.0  # from the whole body to the answer
SOCKET_MODE = 0o660  # the agent's user and group


class Gateway:
    """Listens from the moment it is made until `close`."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        socket_path: Path | None = None,
        socket_mode: int = SOCKET_MODE,
        version: str = "0",
        answering: Answering | None = None,
        feedback: Feedback | None = None,
        config: Callable[[], Shown] | None = None,
        request_seconds_max: float = REQUEST_SECONDS_MAX,
        connections_max: int = CONNECTIONS_MAX,
        room: Room | None = None,
        patience: Patience | None = None,
    ) -> None:
        """Listen at once; port 0 takes a free one, a name listens on each of its addresses.

        Args:
            answering: who answers when the release cannot; None: nobody.
            config: what the application is told at /v1/config; None: there is no such place.
            feedback: takes what the application posts of the answers; None: nobody does.

        Raises:
            ConfigurationInvalid: an address is in use or not this device's.
        """
        connections_max = min(connections_max, allow_descriptors())
        sockets = listen_tcp(host, port)
        self.address: tuple[str, int] = sockets[0].getsockname()[:2]
        self._unix: UnixListener | None = None
        if socket_path is not None:
            try:
                self._unix = UnixListener(socket_path, socket_mode)
            except BaseException:
                _close(sockets)
                raise
            sockets.append(self._unix.socket)
        self._server = Server(
            lambda: Routes(
                runtime,
                ByRelease() if answering is None else answering,
                version=version,
                request_seconds_max=request_seconds_max,
                feedback=feedback,
                config=config,
            ),
            sockets,
            room=room or Room(),
            patience=patience or Patience(),
            connections_max=connections_max,
        )
        if not self._server.start():
            self.close()
            raise ConfigurationInvalid(
                f"The gateway on {self.url} did not start.",
                next_step="look at the agent's log just before this.",
            )

    @property
    def url(self) -> str:
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def socket_path(self) -> Path | None:
        return None if self._unix is None else self._unix.path

    def close(self) -> None:
        """Accept no more, let what runs finish, end the thread."""
        if self._unix is not None:
            self._unix.remove()
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()
