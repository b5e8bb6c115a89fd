"""Files by digest over TLS, from a process of its own."""

import http.server
import multiprocessing
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme

SEND_BYTES = 1 << 20
_spawn = multiprocessing.get_context("spawn")


@dataclass
class Served:
    """A server while the block lasts. Whoever asks finds it at ``url``."""

    directory: Path
    files: Mapping[str, Path]  # by sha256
    url: str = ""
    _process: BaseProcess | None = field(default=None, repr=False)

    def __enter__(self) -> Self:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        issued.private_key_and_cert_chain_pem.write_to_path(str(self.directory / "server.pem"))
        authority.cert_pem.write_to_path(str(self.directory / "ca.pem"))
        here, there = _spawn.Pipe(duplex=False)
        self._process = _spawn.Process(
            target=serve, args=(self.files, self.directory / "server.pem", there), daemon=True
        )
        self._process.start()
        self.url = f"https://127.0.0.1:{here.recv()}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def __getstate__(self) -> dict[str, object]:
        return {"directory": self.directory, "files": {}, "url": self.url, "_process": None}

    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.directory / "ca.pem"))


def serve(files: Mapping[str, Path], certificate: Path, tell: Connection) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = files[self.path.rpartition("/")[2]]
            self.send_response(200)
            self.send_header("Content-Length", str(path.stat().st_size))
            self.end_headers()
            with path.open("rb") as file:
                while chunk := file.read(SEND_BYTES):
                    self.wfile.write(chunk)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    tell.send(server.server_address[1])
    server.serve_forever()
