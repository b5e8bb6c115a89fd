"""MLServer, as its documentation sets it up, in an environment of its own.

Pinned by hash in `peers.txt`. It takes tensors over HTTP as JSON alone, so that is what it is
compared on, with the same client and the same bytes. Adaptive batching as ours has it.
"""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.delta.wheels import Unavailable
from bench.serving.models import Model

HERE = Path(__file__).parent
NAME = "MLServer"
INSTALL_SECONDS_MAX, START_SECONDS_MAX, END_SECONDS_MAX = 900, 60, 20


def installed(cache: Path) -> Path:
    """The environment's directory.

    Raises:
        Unavailable
    """
    place = cache / "peers"
    if (place / "bin" / "mlserver").exists():
        return place
    for command in (
        [sys.executable, "-m", "venv", str(place)],
        [
            str(place / "bin" / "python"),
            *("-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"),
            *("--require-hashes", "-r", str(HERE / "peers.txt")),
        ],
    ):
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX
        )
        if done.returncode != 0:
            raise Unavailable(f"{NAME}: {done.stderr.strip().splitlines()[-1:]}")
    return place


def version(place: Path) -> str:
    found = next(place.glob("lib/python*/site-packages/mlserver-*.dist-info"), None)
    return found.name.split("-")[1].removesuffix(".dist") if found else "?"


@contextmanager
def mlserver(
    place: Path, model: Model, scratch: Path, *, batch_size_max: int, batch_delay_ms_max: float
) -> Iterator[int]:
    """The port that it serves on.

    Raises:
        Unavailable: it does not start.
    """
    directory = scratch / f"mlserver-{model.name}-{batch_size_max}"
    directory.mkdir()
    (directory / "model.onnx").write_bytes(model.content)
    (directory / "mlserver_model.py").write_bytes((HERE / "mlserver_model.py").read_bytes())
    ports = _free_ports(3)
    settings = {
        "host": "127.0.0.1",
        "http_port": ports[0],
        "grpc_port": ports[1],
        "metrics_port": ports[2],
        "debug": False,
    }
    served: dict[str, object] = {
        "name": model.name,
        "implementation": "mlserver_model.OnnxModel",
        "parameters": {"uri": str(directory / "model.onnx")},
    }
    if batch_size_max > 1:
        served |= {"max_batch_size": batch_size_max, "max_batch_time": batch_delay_ms_max / 1000}
    (directory / "settings.json").write_text(json.dumps(settings))
    (directory / "model-settings.json").write_text(json.dumps(served))
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(place / "bin" / "mlserver"), "start", str(directory)],
            stdout=log,
            stderr=log,
            cwd=directory,
        )
    try:
        _wait(ports[0], model.name, process, directory / "log")
        yield ports[0]
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait(port: int, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < give_up and process.poll() is None:
        try:
            url = f"http://127.0.0.1:{port}/v2/models/{name}/ready"
            with urllib.request.urlopen(url, timeout=1) as answer:
                if answer.status == 200:
                    return
        except (OSError, urllib.error.URLError):
            time.sleep(0.2)
    raise Unavailable(f"{NAME} did not start: {log.read_text()[-500:]}")
