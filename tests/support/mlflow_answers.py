"""A TLS server that answers as a test says; what it says by itself is recorded of MLflow 3.17.2."""

import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from model_fleet import Certificates

ROOT = "1/models/m-afce65018c764cb1a82cb7468e9b6968/artifacts"
TENSORS = '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, %d]}}]'
MLMODEL = f"""artifact_path: mlflow-artifacts:/{ROOT}
flavors:
  onnx:
    code: null
    data: model.onnx
    onnx_version: 1.23.2
  python_function:
    data: model.onnx
    loader_module: mlflow.onnx
mlflow_version: 3.17.2
signature:
  inputs: '{TENSORS % 4}'
  outputs: '{TENSORS % 3}'
  params: null
utc_time_created: '2026-11-22 00:52:25.532166'
"""
NO_ALIAS = {
    "error_code": "INVALID_PARAMETER_VALUE",
    "message": "Registered model alias champion not found.",
}


@dataclass
class Answers:
    """``said`` is by path: a status and a JSON value, bytes, or an address to go to."""

    url: str = ""
    said: dict[str, tuple[int, Any]] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)  # so many bytes of a path, once
    ranges: list[str] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path, Authorization

    def offer(self, *files: tuple[str, int], mlmodel: str = MLMODEL, at: str | None = None) -> None:
        """Version 3 of ``cups``, with these files beside its MLmodel."""
        listed = [("MLmodel", len(mlmodel.encode())), *files]
        rows = [{"path": name, "is_dir": False, "file_size": size} for name, size in listed]
        version = {"name": "cups", "version": "3", "run_id": "r1", "status": "READY"}
        self.say("mlflow/registered-models/alias", {"model_version": version})
        place = at or f"mlflow-artifacts:/{ROOT}"
        self.say("mlflow/model-versions/get-download-uri", {"artifact_uri": place})
        self.say("mlflow-artifacts/artifacts", {"files": rows})
        self.said[f"/api/2.0/mlflow-artifacts/artifacts/{ROOT}/MLmodel"] = (200, mlmodel.encode())

    def say(self, path: str, content: Any, status: int = 200) -> None:
        self.said[f"/api/2.0/{path}"] = (status, content)


@contextmanager
def mlflow_answers(certificates: Certificates) -> Iterator[Answers]:
    answers = Answers()
    handler = type("Handler", (_Handler,), {"answers": answers})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.server())
    server.socket = context.wrap_socket(server.socket, server_side=True)
    answers.url = f"https://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield answers
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    answers: Answers

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.answers.asked.append((path, self.headers.get("Authorization")))
        status, content = self.answers.said.get(
            path, (404, {"error_code": "RESOURCE_DOES_NOT_EXIST"})
        )
        begin = 0
        if (wanted := self.headers.get("Range")) is not None and isinstance(content, bytes):
            self.answers.ranges.append(wanted)
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
            status = 206
        self.send_response(status)
        if status in (301, 302, 307):
            self.send_header("Location", str(content))
            content = b""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - begin))
        self.end_headers()
        self.wfile.write(body[begin : self.answers.cut.pop(path, len(body))])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its own name
        pass
