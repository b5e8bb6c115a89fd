"""uvicorn with TLS inside a running loop; the client's certificate reaches the app.

No released ASGI server hands the peer certificate to the application (encode/uvicorn#3132), so a
small protocol class puts it, as DER, into ``scope["extensions"]["tls"]["client_cert_der"]``. A
certificate is optional at the handshake (a new device has none yet) but one that our CA did not
sign is refused there; the API asks for a holder wherever it needs one.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Generator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mailboat_controller.access.rate_limits import network_of
from mailboat_controller.pki.issuing import TlsFiles
from mailboat_schemas.errors import ConfigurationInvalid

EXTENSION = "tls"
CLIENT_CERTIFICATE = "client_cert_der"
STOPPING = "mailboat_stopping"  # an asyncio.Event in the scope's extensions

CONNECTIONS_MAX = 2000  # above that: 503, and devices come back with jitter
BACKLOG = 1024
# A quarter of all, of those without a certificate, who may be anybody. One above it is closed at
# once: whoever holds all connections keeps every device out.
STRANGERS_PER_ADDRESS_MAX = 500
KEEP_ALIVE_SECONDS = 30  # from one answer to the end of the next request's headers
FIRST_REQUEST_SECONDS = 20  # likewise from the handshake; a connection that never asks is closed
SHUTDOWN_SECONDS = 5
HEADERS_BYTES_MAX = 32 * 1024


class _Connection(H11Protocol):
    """Adds the peer's certificate to every scope, and ends when its client keeps us waiting."""

    certificate: bytes | None = None
    source = ""
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        self.certificate = certificate = None if tls is None else tls.getpeercert(binary_form=True)
        self.source = network_of(str(self.client[0])) if self.client else ""
        if certificate is None and self._strangers() > STRANGERS_PER_ADDRESS_MAX:
            transport.close()
            return
        inner = self.app

        async def app(scope: Any, receive: Any, send: Any) -> None:
            extensions = scope.get("extensions") or {}
            scope["extensions"] = {**extensions, EXTENSION: {CLIENT_CERTIFICATE: certificate}}
            await inner(scope, receive, send)

        self.app = app
        self._wait_for_next(FIRST_REQUEST_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._patience is not None:
            self._patience.cancel()

    def on_response_complete(self) -> None:
        answered = self.cycle
        super().on_response_complete()  # may begin with the next request
        if self.cycle is answered:
            self._wait_for_next(KEEP_ALIVE_SECONDS)

    def _wait_for_next(self, seconds: float) -> None:
        """uvicorn's own timer ends with the next byte, so a client could send one and then none."""
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self.loop.call_later(seconds, self._close_if_last, self.cycle)

    def _close_if_last(self, cycle: object) -> None:
        if self.cycle is cycle and not self.transport.is_closing():
            self.transport.close()

    def _strangers(self) -> int:
        """Connections from the same address that came without a certificate, this one too."""
        others = (each for each in self.connections if isinstance(each, _Connection))
        return sum(each.certificate is None and each.source == self.source for each in others)


class _Server(uvicorn.Server):
    """Signals belong to `service.py`, which stops everything in its order. Answers that last (the
    console's streams) are told of the end, so that nobody waits for them."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping.set()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class HttpsServer:
    """Serves an ASGI application. ``bind`` first, then ``serve`` until ``stop``."""

    def __init__(self, app: Any, *, host: str, port: int, files: TlsFiles) -> None:
        self._address = (host, port)
        stopping = asyncio.Event()

        async def told(scope: Any, receive: Any, send: Any) -> None:
            scope["extensions"] = {**(scope.get("extensions") or {}), STOPPING: stopping}
            await app(scope, receive, send)

        self._server = _Server(_configuration(told, files), stopping)
        self._socket: socket.socket | None = None

    def bind(self) -> int:
        """Take the port, so that nobody is told of one we do not have; returns it.

        Raises:
            ConfigurationInvalid: taken by another program, or not an address of this machine.
        """
        host, port = self._address
        try:
            self._socket = _listener(host, port)
        except OSError as error:
            raise ConfigurationInvalid(
                f"The API cannot listen on {host}:{port}: {error.strerror or error}.",
                next_step="stop the program that has the port, or set listen_host and "
                "listen_port in controller.toml.",
            ) from error
        taken: int = self._socket.getsockname()[1]
        return taken

    @property
    def started(self) -> bool:
        return self._server.started

    async def serve(self) -> None:
        """Answer until `stop` is called; cancelling stops at once."""
        if self._socket is None:
            self.bind()
        assert self._socket is not None  # noqa: S101  bind() sets it or raises
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            self._socket.close()

    async def wait_started(self) -> None:
        while not self._server.started:  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0.01)

    def stop(self) -> None:
        """Finish what is being answered, for a few seconds at most. Safe from any thread."""
        self._server.should_exit = True


def _listener(host: str, port: int) -> socket.socket:
    family, kind, _protocol, _name, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    )[0]
    # The protocol is named because asyncio sets TCP_NODELAY only on sockets that say they are TCP;
    # without it every TLS handshake waits 40 ms for a delayed ACK.
    listener = socket.socket(family, kind, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # whoever comes before `serve` waits instead of being refused
    except OSError:
        listener.close()
        raise
    return listener


def _configuration(app: Any, files: TlsFiles) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing in front of us may say who the client is
        limit_concurrency=CONNECTIONS_MAX,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        h11_max_incomplete_event_size=HEADERS_BYTES_MAX,
        ssl_context_factory=lambda _config, _default: server_context(files),
    )


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """TLS 1.2 or newer; client certificates of our CA, or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(files.certificate, files.key)
    context.load_verify_locations(files.ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context
