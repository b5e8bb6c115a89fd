"""A real MLflow tracking server: SQLite registry, artifact proxy, TLS, webhooks.

MLflow lives in an environment of its own, because its dependencies are a world of their own:
``.cache/mlflow``, or the Python that MAILBOAT_MLFLOW_PYTHON names. Where it is not installed, the
tests that need it skip and say so.
"""

import base64
import json
import os
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from model_fleet import Certificates
from unused_port import unused_port

REPOSITORY = Path(__file__).parents[2]
INSTALLED = REPOSITORY / ".cache" / "mlflow" / "bin" / "python"
PYTHON_VARIABLE = "MAILBOAT_MLFLOW_PYTHON"
START_SECONDS_MAX = 420  # it imports a world; a busy machine compiles that first
LOG_SECONDS_MAX = 240

# Runs where MLflow is installed, and logs what a data scientist logs.
LOG = """
import json, sys
import mlflow, numpy, onnx
from mlflow.models import ModelSignature, infer_signature

orders = json.load(sys.stdin)
mlflow.set_experiment("cups")
for order in orders:
    with mlflow.start_run():
        mlflow.log_metric("accuracy", 0.93)
        x = numpy.ones((2, order["width"]), dtype=numpy.float32)
        mlflow.log_input(mlflow.data.from_numpy(x, name="cups-2026"))
        if order["kind"] == "python":
            class Model(mlflow.pyfunc.PythonModel):
                def predict(self, context, model_input, params=None):
                    return model_input
            mlflow.pyfunc.log_model(
                name="model", python_model=Model(), registered_model_name=order["name"],
                pip_requirements=[],
            )
            continue
        y = numpy.ones((2, order["outputs"]), dtype=numpy.float32)
        mlflow.onnx.log_model(
            onnx.load(order["path"]), name="model", registered_model_name=order["name"],
            signature=infer_signature(x, y) if order["signed"] else None,
            pip_requirements=["onnx"], save_as_external_data=order["kind"] == "external",
        )
"""


def python() -> Path | None:
    """Of the environment with MLflow in it."""
    named = os.environ.get(PYTHON_VARIABLE)
    path = Path(named) if named else INSTALLED
    return path if path.is_file() else None


@dataclass
class MlflowServer:
    url: str
    python: Path
    certificates: Certificates

    def log(self, *orders: dict[str, Any]) -> None:
        """Log and register models, each in a run of its own."""
        whole = [
            {"kind": "onnx", "signed": True, "width": 16, "outputs": 4} | order for order in orders
        ]
        done = subprocess.run(
            [str(self.python), "-c", LOG],
            input=json.dumps(whole),
            env=environment(
                MLFLOW_TRACKING_URI=self.url,
                MLFLOW_TRACKING_SERVER_CERT_PATH=str(self.certificates.ca_path),
            ),
            capture_output=True,
            text=True,
            timeout=LOG_SECONDS_MAX,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - https, above
            f"{self.url}/api/2.0/mlflow/{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        tls = ssl.create_default_context(cafile=str(self.certificates.ca_path))
        with urllib.request.urlopen(request, context=tls, timeout=60) as answer:  # noqa: S310
            return dict(json.load(answer))

    def set_alias(self, name: str, alias: str, version: str) -> None:
        body = {"name": name, "alias": alias, "version": version}
        self.ask("POST", "registered-models/alias", body)

    def delete_alias(self, name: str, alias: str) -> None:
        self.ask("DELETE", "registered-models/alias", {"name": name, "alias": alias})

    def version(self, name: str, version: str) -> dict[str, Any]:
        found = self.ask("GET", f"model-versions/get?name={name}&version={version}")
        return dict(found["model_version"])

    def tags(self, name: str, version: str) -> dict[str, str]:
        return {tag["key"]: tag["value"] for tag in self.version(name, version).get("tags", ())}

    def register_again(self, name: str, version: str) -> str:
        """Another version of the same files, as MLflow numbers it."""
        found = self.version(name, version)
        body = {"name": name, "source": found["source"], "run_id": found["run_id"]}
        body["model_id"] = str(found["source"]).removeprefix("models:/")
        return str(self.ask("POST", "model-versions/create", body)["model_version"]["version"])

    def add_webhook(self, url: str, secret: str) -> None:
        event = [{"entity": "MODEL_VERSION_ALIAS", "action": "CREATED"}]
        body = {"name": "mailboat", "url": url, "events": event, "secret": secret}
        self.ask("POST", "webhooks", body)


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept | {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"} | more


@contextmanager
def mlflow_server(directory: Path, *trusted: Path) -> Iterator[MlflowServer]:
    """A server with nothing registered. Its webhooks trust the CAs in ``trusted``."""
    found = python()
    if found is None:
        pytest.skip(f"MLflow is not installed in {INSTALLED.parent.parent} (see .ci/run)")
    certificates = Certificates(directory / "pki")
    certificate, key = certificates.server()
    port = unused_port()
    shim = directory / "shim"
    shim.mkdir(parents=True)
    # The CAs of its webhooks are those of certifi, whatever the environment says.
    cas = shim / "ca.pem"
    cas.write_bytes(b"".join(path.read_bytes() for path in trusted))
    (shim / "sitecustomize.py").write_text(
        f"import certifi\ncertifi.where = lambda: {str(cas)!r}\n"
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(str(found), "-m", "mlflow", "server", "--host", "127.0.0.1"),
                *("--port", str(port), "--workers", "1"),
                *("--backend-store-uri", f"sqlite:///{directory / 'mlflow.db'}"),
                *("--artifacts-destination", str(directory / "artifacts")),
                *("--uvicorn-opts", f"--ssl-certfile {certificate} --ssl-keyfile {key}"),
            ],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environment(
                PYTHONPATH=str(shim),
                MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY=base64.urlsafe_b64encode(bytes(32)).decode(),
                MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS="true",
                MLFLOW_WEBHOOK_CACHE_TTL="1",
            ),
        )
    try:
        server = MlflowServer(f"https://127.0.0.1:{port}", found, certificates)
        _wait(server, process, directory / "log")
        yield server
    finally:
        os.killpg(process.pid, 15)
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


def _wait(server: MlflowServer, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(errors="replace")
        try:
            server.ask("GET", "registered-models/search?max_results=1")
        except OSError:
            time.sleep(0.2)
        else:
            return
    pytest.fail(log.read_text(errors="replace"))
