"""The whole controller with its own mosquitto, TLS everywhere, over real sockets."""

import asyncio
import json
import os
import random
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import structlog
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from enrolled_fleet import CLASS, FLEET, EnrolledDevice, lay_database
from mailboat_controller import data_directory, stats
from mailboat_controller.artifacts.directory import DirectoryStore
from mailboat_controller.config import ControllerSettings, load
from mailboat_controller.pki.issuing import Authority
from mailboat_controller.service import serve
from mailboat_controller.store import classes, devices, events, retention
from mailboat_controller.store.engine import Store
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.desired import ManifestBundle
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.envelope import Envelope
from mailboat_schemas.errors import ConfigurationInvalid, DiskFull
from mailboat_schemas.reports import Ack
from mailboat_schemas.submission import Submission
from mailboat_schemas.topics import Channel, build
from trust_fleet import TrustFleet

SECONDS = 60
MANIFEST = build(Channel.MANIFEST, fleet=FLEET, hardware_class=CLASS)


@dataclass
class Installed:
    """A data directory ready to be served, on free ports, with one class and one device."""

    directory: Path

    def __post_init__(self) -> None:
        self.now = datetime.now(UTC)
        self.trust = TrustFleet(self.directory / "ceremony", now=self.now)
        lay_database(self.directory / "data")
        data_directory.create(
            self.directory / "data",
            fleet=FLEET,
            trust=self.directory / "ceremony" / "controller",
            now=self.now,
            listen_port=0,
            mqtt_port=0,
        )
        self.settings: ControllerSettings = load(self.config)
        self.authority = Authority.load(self.settings.pki_dir)
        self.device = self._enrol("dev-1")

    @property
    def config(self) -> Path:
        return self.directory / "data" / "controller.toml"

    def _enrol(self, name: str) -> EnrolledDevice:
        issued = self.authority.issue_credential(Kind.DEVICE, name, now=self.now)
        key: Any = load_pem_private_key(issued.key or b"", None)
        (self.directory / f"{name}.pem").write_bytes(issued.certificate)
        (self.directory / f"{name}.key").write_bytes(issued.key or b"")
        device = EnrolledDevice(name, key=key)
        store = Store(self.settings.store_url)
        with store.transaction() as tx:
            document = {
                "apiVersion": "mailboat/v1",
                "kind": "HardwareClass",
                "metadata": {"name": CLASS},
                "spec": {"arch": "x86_64", "memory_budget": "1GiB", "disk_budget": "9GiB"},
            }
            classes.put(tx, HardwareClass.model_validate(document), self.now)
            devices.enrol(
                tx,
                device=name,
                hardware_class=CLASS,
                site="-",
                labels={},
                public_key=device.public_key,
                at=self.now,
            )
        store.close()
        return device

    def tls(self, name: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority.ca_path))
        context.load_cert_chain(self.directory / f"{name}.pem", self.directory / f"{name}.key")
        return context

    def serving(self) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            try:
                return dict(json.loads(self.settings.serving_file.read_text()))
            except FileNotFoundError:
                time.sleep(0.02)
        raise AssertionError("it does not serve")

    def submission(self) -> bytes:
        path = DirectoryStore(self.settings.artifacts_dir).path("ab" * 32)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"onnx")
        self.trust.release("1.0.0")
        roles = ("release-vad", "approval-vad")
        return encode(
            Submission(
                fleet=FLEET,
                roles={role: self.trust.roles[role] for role in roles},
                documents=self.trust.documents,
            )
        )


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    return Installed(tmp_path)


@contextmanager
def served(settings: ControllerSettings) -> Iterator[None]:
    """In this process, in a thread with a loop of its own."""
    started = threading.Event()
    handles: dict[str, Any] = {}

    async def main() -> None:
        handles["loop"], handles["stop"] = asyncio.get_running_loop(), asyncio.Event()
        started.set()
        await serve(settings, stop=handles["stop"])

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    started.wait(SECONDS)
    try:
        yield
    finally:
        handles["loop"].call_soon_threadsafe(handles["stop"].set)
        thread.join(SECONDS)
        assert not thread.is_alive()


@contextmanager
def device_client(installed: Installed, port: int) -> Iterator[tuple[Client, list[MQTTMessage]]]:
    heard: list[MQTTMessage] = []
    client = Client(
        CallbackAPIVersion.VERSION2, client_id="dev-1", protocol=MQTTProtocolVersion.MQTTv5
    )
    client.tls_set_context(installed.tls("dev-1"))
    client.on_message = lambda _c, _u, message: heard.append(message)
    client.on_connect = lambda c, *_: c.subscribe(
        [(MANIFEST, 1), (installed.device.topic(Channel.ACK), 1)]
    )
    client.reconnect_delay_set(0.05, 0.2)  # type: ignore[arg-type]
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        yield client, heard
    finally:
        client.disconnect()
        client.loop_stop()


def until(condition: Any) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "this did not happen in time"
        time.sleep(0.01)


def acks(heard: list[MQTTMessage]) -> list[int]:
    sealed = [decode(Envelope, bytes(m.payload)) for m in heard if m.topic.endswith("/ack")]
    return [decode(Ack, envelope.payload).events_acked for envelope in sealed]


def manifests_heard(heard: list[MQTTMessage]) -> list[bytes]:
    return [bytes(message.payload) for message in heard if message.topic == MANIFEST]


def offers(heard: list[MQTTMessage]) -> list[int]:
    bundles = [decode(ManifestBundle, bytes(m.payload)) for m in heard if m.topic == MANIFEST]
    return [bundle.counter for bundle in bundles if bundle.documents]


def test_from_a_submission_to_a_manifest_and_from_an_event_to_its_ack(
    installed: Installed,
) -> None:
    with served(installed.settings):
        serving = installed.serving()
        health = f"{serving['api_url']}/healthz"
        with urlopen(health, context=installed.tls("dev-1")) as answer:  # noqa: S310  https
            assert answer.status == 200
        with device_client(installed, serving["mqtt_port"]) as (client, heard):
            until(lambda: any(m.topic == MANIFEST for m in heard))
            _submit_over_mqtt(installed, serving["mqtt_port"])
            until(lambda: offers(heard))

            client.publish(
                installed.device.topic(Channel.EVENTS),
                installed.device.numbered(1, 3).payload,
                qos=1,
            )
            until(lambda: 3 in acks(heard))
    assert not installed.settings.serving_file.exists()
    store = Store(installed.settings.store_url)
    with store.read() as tx:
        assert [row.sequence for row in events.page(tx)] == [1, 2, 3]
    store.close()


def test_a_disk_that_is_full_for_a_while_stops_nothing(
    installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    def full(*_args: object, **_more: object) -> int:
        asked.set()
        raise DiskFull("The disk is full.", next_step="free space.")

    monkeypatch.setattr(retention, "strip_events", full)
    monkeypatch.setattr(stats, "roll_ups", full)
    with served(installed.settings):
        serving = installed.serving()
        assert asked.wait(SECONDS)
        with device_client(installed, serving["mqtt_port"]) as (_client, heard):
            until(lambda: any(m.topic == MANIFEST for m in heard))


def _submit_over_mqtt(installed: Installed, port: int) -> None:
    from mailboat_controller import ci_client
    from mailboat_controller.connection_file import load_connection

    path = data_directory.issue_credential(
        installed.settings,
        Kind.CI,
        "build",
        installed.directory / "ci",
        actor="operator:alice",
        now=installed.now,
    )
    reply = ci_client.submit(
        installed.submission(), load_connection(path), path.parent, timeout_seconds=SECONDS
    )
    assert (reply.status, reply.rollouts) == ("accepted", ("all",))


@pytest.mark.slow
def test_kill_9_of_the_controller_loses_no_event_and_it_comes_back(installed: Installed) -> None:
    first = _start(installed)
    serving = installed.serving()
    # The restarted controller must find the same broker port: any free one would be another.
    settings = installed.config.read_text().replace(
        "mqtt_port = 0", f"mqtt_port = {serving['mqtt_port']}"
    )
    installed.config.write_text(settings)
    with device_client(installed, serving["mqtt_port"]) as (client, heard):
        topic = installed.device.topic(Channel.EVENTS)
        client.publish(topic, installed.device.numbered(1, 2).payload, qos=1)
        until(lambda: 2 in acks(heard))
        until(lambda: manifests_heard(heard))
        before = manifests_heard(heard)[-1]
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        heard.clear()
        client.publish(topic, installed.device.numbered(3, 4).payload, qos=1)
        installed.settings.serving_file.unlink()

        second = _start(installed)
        try:
            installed.serving()
            # The broker may have died with what it had queued; the outbox of the device has not.
            client.publish(topic, installed.device.numbered(3, 5).payload, qos=1)
            until(lambda: 5 in acks(heard))
            # What the broker kept, and what the controller asserts once: the same bytes.
            until(lambda: manifests_heard(heard))
            time.sleep(1)
            assert set(manifests_heard(heard)) == {before}
            assert len(manifests_heard(heard)) <= 2
        finally:
            second.send_signal(signal.SIGTERM)
            assert second.wait(SECONDS) == 0
    store = Store(installed.settings.store_url)
    with store.read() as tx:
        assert [row.sequence for row in events.page(tx)] == [1, 2, 3, 4, 5]
    store.close()


def _start(installed: Installed) -> subprocess.Popen[bytes]:
    program = (
        "import asyncio, sys; from pathlib import Path;"
        "from mailboat_controller.config import load;"
        "from mailboat_controller.service import serve;"
        "asyncio.run(serve(load(Path(sys.argv[1]))))"
    )
    log = (installed.directory / f"controller-{random.randrange(1 << 30)}.log").open("wb")
    return subprocess.Popen([sys.executable, "-c", program, str(installed.config)], stderr=log)


def test_without_trust_it_does_not_start_and_says_why(tmp_path: Path) -> None:
    settings = data_directory.create(
        tmp_path / "data", fleet=FLEET, trust=None, now=datetime.now(UTC), listen_port=0
    )

    with pytest.raises(ConfigurationInvalid):
        asyncio.run(serve(settings))
