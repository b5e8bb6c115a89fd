"""A gateway with degraded answers before a real runtime, and endpoints to ask, some of them bad."""

import hashlib
import http.client
import http.server
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mailboat_agent.degraded.pressure import Gauge
from mailboat_agent.degraded.telling import Degraded
from mailboat_agent.sealed_memory import verified_memory
from mailboat_agent.serving.gateway import Gateway
from mailboat_agent.serving.runtime import Absence, Runtime
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_schemas.documents.degraded_policy import DegradedPolicy
from mailboat_schemas.documents.health import Health
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.release import File, FileRole, Variant
from mailboat_schemas.documents.release import Runtime as RuntimeNeeds
from mailboat_schemas.documents.serving_policy import ServingPolicy
from model_fleet import affine

MIB = 1 << 20
X_TO_Y = Interface.model_validate(
    {
        "inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [-1, 4]}],
    }
)
GOOD = {
    "model_name": "m",
    "model_version": "2.0.0",
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [9, 9, 9, 9]}],
}


@dataclass
class Other:
    """An endpoint of somebody else. ``answers`` says what it does with a request."""

    server: http.server.ThreadingHTTPServer
    seen: list[dict[str, str]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    behind: list[bytes] = field(default_factory=list)  # the tensors' bytes
    status: int = 200
    content: Any = field(default_factory=lambda: dict(GOOD))
    headers: dict[str, str] = field(default_factory=dict)
    hold: threading.Event | None = None  # it answers only when this is set
    about: Any = None  # what it says of itself; None: nothing, as a server without such a path
    asked_about: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        other: Other = self.server.other  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["content-length"]))
        other.seen.append(
            {"path": self.path, **{name.lower(): value for name, value in self.headers.items()}}
        )
        length = int(self.headers.get("inference-header-content-length", len(body)))
        other.bodies.append(json.loads(body[:length]))
        other.behind.append(body[length:])
        if other.hold is not None:
            other.hold.wait(60)
        content = other.content
        self.answer(other.status, content)

    def do_GET(self) -> None:
        other: Other = self.server.other  # type: ignore[attr-defined]
        other.asked_about += 1
        self.answer(404 if other.about is None else 200, other.about)

    def answer(self, status: int, content: Any) -> None:
        other: Other = self.server.other  # type: ignore[attr-defined]
        encoded = content if isinstance(content, bytes) else json.dumps(content).encode()
        try:
            self.send_response(status)
            for name, value in other.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)
        except OSError:
            pass  # nobody waits any more

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Front:
    """A device's gateway, and all that it answers with."""

    runtime: Runtime
    gateway: Gateway
    degraded: Degraded
    gauge: Gauge

    def infer(
        self, model: str = "m", values: tuple[float, ...] = (1, 2, 3, 4), **headers: str
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Status, JSON, and headers in lower case."""
        x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": list(values)}
        return self.call("POST", f"/v2/models/{model}/infer", {"inputs": [x]}, **headers)

    def call(
        self, method: str, path: str, content: Any = None, **headers: str
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        connection = http.client.HTTPConnection(*self.gateway.address, timeout=20)
        body = None if content is None else json.dumps(content)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        response = connection.getresponse()
        found = json.loads(response.read() or b"null")
        connection.close()
        return response.status, found, {k.lower(): v for k, v in response.getheaders()}

    def totals(self) -> Any:
        return self.degraded.status(0.0)["answers"]


def absent(**changes: Any) -> Absence:
    """The model belongs here and nothing serves; its document is approved and allows nothing."""
    found = {"policy": DegradedPolicy(), "interface": X_TO_Y, "word": "withdrawn"}
    return Absence("nothing is left to serve", 30, **(found | changes))


Make = Callable[..., Front]


def served(
    *,
    model: str = "m",
    version: str = "1.0.0",
    content: bytes | None = None,
    degraded: dict[str, Any] | None = None,
    **serving: Any,
) -> ServedRelease:
    """y = 2x + 1, unless ``content`` says otherwise. Closes its descriptor with the process."""
    model_bytes = affine(2.0) if content is None else content
    sha256 = hashlib.sha256(model_bytes).hexdigest()
    policy = {"degraded": degraded} if degraded else {}
    return ServedRelease(
        model=model,
        version=version,
        digest=hashlib.sha256(f"{model} {version}".encode()).hexdigest(),
        interface=X_TO_Y,
        variant=Variant(
            hardware_classes=("box",),
            files=(File(path="m.onnx", role=FileRole.MODEL, sha256=sha256, length=1),),
            runtime=RuntimeNeeds(),
            peak_memory=256 * MIB,
            health=Health(),
            serving=ServingPolicy.model_validate(policy | serving),
        ),
        model_fd=verified_memory([model_bytes], sha256),
        memory_limit_bytes=512 * MIB,
    )
