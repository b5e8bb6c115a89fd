"""A real S3 on a loopback port, and a door in front of it that fails on demand."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from mailboat_controller.artifacts.settings import ArtifactSettings

KEY = "AKIATESTTESTTEST"
SECRET = "a secret that must never be told"
_numbers = itertools.count()


@dataclass
class S3Server:
    """moto's; every bucket is new."""

    address: str
    client: Any
    credentials: Path

    def settings(self, **changed: Any) -> ArtifactSettings:
        """Of a bucket of its own, under a prefix."""
        bucket = f"bucket-{next(_numbers)}"
        self.client.create_bucket(Bucket=bucket)
        content = {
            "store": "s3",
            "bucket": bucket,
            "prefix": "fleet/a",
            "endpoint": self.address,
            "credentials_file": self.credentials,
            "request_seconds": 3,
        }
        return ArtifactSettings.model_validate(content | changed)

    def keys(self, bucket: str) -> list[str]:
        found = self.client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return [each["Key"] for each in found]

    def unfinished(self, bucket: str) -> list[str]:
        """Keys of multipart uploads that were neither completed nor aborted."""
        found = self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        return [each["Key"] for each in found]


def write_credentials(path: Path, *, secret: str = SECRET) -> Path:
    path.write_text(f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {secret}\n")
    path.chmod(0o600)
    return path


@contextmanager
def s3_server(directory: Path) -> Iterator[S3Server]:
    import boto3  # both take a second to import
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        address = f"http://{host}:{port}"
        client = boto3.client(
            "s3",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
        )
        yield S3Server(address, client, write_credentials(directory / "credentials"))
    finally:
        server.stop()


@dataclass
class Request:
    method: str
    path: str
    number: int  # of those that came, from 1


Answer = tuple[int, bytes] | str | None  # status and body; "drop", "cut"; None: let it through


@dataclass
class Door:
    """Before an S3: `decide` says of each request what becomes of it."""

    behind: str
    decide: Callable[[Request], Answer] = lambda _request: None
    seen: list[Request] = field(default_factory=list)
    server: ThreadingHTTPServer = field(init=False)

    def __post_init__(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def refusal(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()


def _handler(door: Door) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_words: object) -> None:
            pass

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = Request(self.command, self.path, len(door.seen) + 1)
            door.seen.append(request)
            answer = door.decide(request)
            if answer == "drop":
                self.close_connection = True
                return
            if isinstance(answer, tuple):
                self.answer(answer[0], {}, answer[1])
                return
            connection = HTTPConnection(door.behind.removeprefix("http://"), timeout=60)
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            content = response.read()
            connection.close()
            self.answer(response.status, dict(response.getheaders()), content, cut=answer == "cut")

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on  # noqa: N815

        def answer(
            self, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in {"content-length", "connection", "transfer-encoding"}:
                    self.send_header(name, value)
            length = headers.get("Content-Length", str(len(content)))
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[: len(content) // 2] if cut else content)
            if cut:
                self.close_connection = True

    return Handler
