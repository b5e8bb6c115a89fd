"""A small OCI registry over TLS, whose every answer a test may spoil."""

import base64
import hashlib
import http.server
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from model_fleet import Certificates

TITLE = "org.opencontainers.image.title"
KIND = "application/vnd.oci.image.manifest.v1+json"
USER, PASSWORD = "robot", "a password of some length"


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass
class Registry:
    """``spoil`` may answer a path in its own way: it gets the handler and says if it did."""

    url: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)  # by tag and by digest
    private: bool = False
    resumes: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range
    authorized: list[str] = field(default_factory=list)  # Authorization at blobs elsewhere
    spoil: Callable[[Any], bool] = lambda _handler: False

    @property
    def host(self) -> str:
        return self.url.removeprefix("https://")

    def reference(self, tag: str = "1.0.0") -> str:
        return f"oci://{self.host}/models/vad:{tag}"

    def push(self, files: dict[str, bytes], tag: str = "1.0.0", **changes: Any) -> str:
        """As `oras push` does; returns the manifest's digest."""
        layers = []
        for title, content in files.items():
            digest = digest_of(content)
            self.blobs[digest] = content
            layer = {"mediaType": "application/octet-stream", "digest": digest}
            layers.append(layer | {"size": len(content), "annotations": {TITLE: title}})
        return self.push_manifest({"schemaVersion": 2, "layers": layers} | changes, tag)

    def push_manifest(self, manifest: dict[str, Any], tag: str = "1.0.0") -> str:
        content = json.dumps(manifest).encode()
        self.manifests[tag] = self.manifests[digest_of(content)] = content
        return digest_of(content)


@contextmanager
def oci_server(certificates: Certificates, registry: Registry) -> Iterator[Registry]:
    handler = type("Handler", (_Handler,), {"registry": registry})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.server())
    server.socket = context.wrap_socket(server.socket, server_side=True)
    registry.url = f"https://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    registry: Registry

    def do_GET(self) -> None:
        registry = self.registry
        registry.asked.append((self.path, self.headers.get("Range")))
        if registry.spoil(self):
            return
        if self.path.startswith("/token"):
            self._token()
        elif registry.private and self.headers.get("Authorization") != "Bearer a-token":
            realm = f'Bearer realm="{registry.url}/token",service="registry"'
            self.answer(401, b"{}", {"WWW-Authenticate": realm})
        elif "/manifests/" in self.path:
            self._give(registry.manifests, {"Content-Type": KIND})
        else:
            self._give(registry.blobs, {})

    def _token(self) -> None:
        known = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {known}":
            self.answer(401, b"{}")
        elif "scope=repository%3Amodels%2Fvad%3Apull" not in self.path:
            self.answer(403, b"{}")
        else:
            self.answer(200, b'{"token": "a-token"}')

    def _give(self, contents: dict[str, bytes], headers: dict[str, str]) -> None:
        content = contents.get(self.path.rpartition("/")[2])
        if content is None:
            self.answer(404, b"{}")
            return
        asked = self.headers.get("Range")
        if asked and self.registry.resumes:
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
            place = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            self.answer(206, content[begin:], {**headers, "Content-Range": place})
        else:
            self.answer(200, content, headers)

    def answer(
        self,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        """``length`` is what it announces; more than the content is a connection that breaks."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments: object) -> None:
        pass
