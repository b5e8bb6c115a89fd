"""A real agent process on a directory, and a real broker with TLS for it to connect to."""

import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from mailboat_agent.config import to_toml
from mailboat_agent.journal.event_journal import Journal
from mailboat_controller.broker.embedded import find_mosquitto
from mailboat_schemas import topics
from mailboat_schemas.events import Event
from mailboat_schemas.topics import Channel
from model_fleet import CLASS, DEVICE, FLEET, MODEL, Certificates
from unused_port import unused_port

PATIENCE_SECONDS = 120


def until(condition: Callable[[], Any]) -> Any:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    return found


@contextmanager
def broker_that_retains(
    directory: Path, certificates: Certificates, manifest: bytes
) -> Iterator[int]:
    """mosquitto on a port of loopback, with this manifest for the class and nothing else."""
    directory.mkdir()
    port = unused_port()
    certificate, key = certificates.server()
    config = directory / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\ncafile {certificates.ca_path}\ncertfile {certificate}\n"
        f"keyfile {key}\nrequire_certificate true\nuse_identity_as_username true\n"
        "allow_anonymous true\nuser root\n"
    )
    process = subprocess.Popen(
        [str(find_mosquitto()), "-c", str(config)], stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: _answers(port))
        topic = topics.build(Channel.MANIFEST, fleet=FLEET, hardware_class=CLASS)
        _publish(port, certificates, topic, manifest)
        yield port
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _publish(port: int, certificates: Certificates, topic: str, payload: bytes) -> None:
    context = ssl.create_default_context(cafile=str(certificates.ca_path))
    context.load_cert_chain(*certificates.device("controller"))
    client = paho.Client(CallbackAPIVersion.VERSION2, "centre", protocol=paho.MQTTv5)
    client.tls_set_context(context)
    client.connect("localhost", port)
    client.loop_start()
    client.publish(topic, payload, qos=1, retain=True).wait_for_publish(PATIENCE_SECONDS)
    client.disconnect()
    client.loop_stop()


@dataclass
class AgentProcess:
    """``data`` is what it finds; ``start`` and ``kill`` as often as wanted."""

    directory: Path
    certificates: Certificates
    factory_root: bytes
    api_url: str
    process: subprocess.Popen[bytes] | None = field(default=None)
    prefix: tuple[str, ...] = ()  # a command that runs the agent's own, such as strace
    settings: dict[str, Any] = field(default_factory=dict)  # more of agent.toml

    def __post_init__(self) -> None:
        self.certificate, self.key = self.certificates.device()
        (self.directory / "root.json").write_bytes(self.factory_root)

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def start(self, mqtt_port: int) -> None:
        config = self.directory / "agent.toml"
        settings = {
            "fleet": FLEET,
            "device": DEVICE,
            "hardware_class": CLASS,
            "data_dir": str(self.data),
            "api_url": self.api_url,
            "mqtt_host": "localhost",
            "mqtt_port": mqtt_port,
            "ca": str(self.certificates.ca_path),
            "certificate": str(self.certificate),
            "key": str(self.key),
            "trust_root": str(self.directory / "root.json"),
            "reconnect_seconds_min": 0.05,
            **self.settings,
        }
        config.write_text(to_toml(settings))
        command = [sys.executable, "-m", "mailboat_agent.cli", "run", "--config", str(config)]
        self.process = subprocess.Popen(
            [*self.prefix, *command],
            stderr=(self.directory / "agent.log").open("ab"),
        )

    def kill(self) -> None:
        """SIGKILL, as a power cut does: no word, no time."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None
            for name in ("status.json", "serving.json"):  # of the process that is gone
                (self.data / name).unlink(missing_ok=True)

    def report(self) -> dict[str, Any]:
        """What it says of itself now; {} before it does."""
        path = self.data / "status.json"
        if self.process is None or not path.exists():
            return {}
        status: dict[str, Any] = json.loads(path.read_bytes())
        return dict(status["report"]) if status["pid"] == self.process.pid else {}

    def log(self) -> str:
        return (self.directory / "agent.log").read_text()

    def infer(self, values: list[float]) -> list[float]:
        url = until(lambda: _json(self.data / "serving.json").get("url"))
        x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": values}
        request = urllib.request.Request(  # noqa: S310
            f"{url}/v2/models/{MODEL}/infer", json.dumps({"inputs": [x]}).encode()
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310
            output: list[float] = json.load(answer)["outputs"][0]["data"]
        return output

    def events(self) -> list[Event]:
        """Of a killed process, from a copy of its journal."""
        copy = self.directory / f"journal-{os.urandom(4).hex()}"
        copy.mkdir()
        for path in self.data.glob("journal.db*"):
            shutil.copy(path, copy)
        journal = Journal(copy / "journal.db", random.Random(1))
        try:
            return journal.events_after(0, 1000, 1 << 20)
        finally:
            journal.close()


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content
