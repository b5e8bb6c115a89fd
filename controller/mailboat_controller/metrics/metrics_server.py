"""`/metrics` of a process that has no API: over HTTP, to Prometheus on the same machine.

It tells numbers to whoever asks, so it is on loopback unless the settings say otherwise.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6, socket
from socketserver import TCPServer
from typing import Any

from mailboat_schemas.errors import ConfigurationInvalid

PATH = "/metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
POLL_SECONDS = 0.1  # until a stop is noticed
CLIENTS_MAX = 8  # at once; Prometheus is one
CLIENT_SECONDS_MAX = 10.0  # that one may take to ask, or to read


@contextmanager
def shown(host: str, port: int, render: Callable[[], bytes]) -> Iterator[int]:
    """
    Args:
        port: 0 takes any free one.

    Yields:
        the port that answers, until the block ends.

    Raises:
        ConfigurationInvalid: the address is taken, or none of ours.
    """
    try:
        server = _Server((host, port), _handler(render))
    except OSError as error:
        raise ConfigurationInvalid(
            f"Figures cannot be shown at {host}:{port}: {error.strerror}.",
            next_step="set ingest.metrics_port to a free port; partition N takes the Nth after it.",
        ) from error
    thread = threading.Thread(
        target=server.serve_forever, args=(POLL_SECONDS,), name="metrics", daemon=True
    )
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._free = threading.BoundedSemaphore(CLIENTS_MAX)
        self.address_family = AF_INET6 if ":" in address[0] else AF_INET
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Without looking up our own name, which may take a resolver's patience."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Whoever asked went away: nobody is there to be told."""


def _handler(render: Callable[[], bytes]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = CLIENT_SECONDS_MAX

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != PATH:
                self.send_error(404)
                return
            content = render()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Prometheus asks every few seconds."""

    return Handler
