"""The agent as a process: enrolled, run, asked, killed and stopped, with TLS to a real broker."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from mailboat_agent.cli import EXIT_AUTH, EXIT_FAILURE, EXIT_USAGE, main
from mailboat_agent.status import read_status
from mailboat_controller.authority.online import OnlineKeys
from mailboat_schemas import topics
from mailboat_schemas.codec import decode
from mailboat_schemas.envelope import Envelope, PayloadType, open_from_device
from mailboat_schemas.errors import NotFound
from mailboat_schemas.events import EventBatch
from mailboat_schemas.reports import Ack, Hello, ReportedState, TelemetryBatch
from mailboat_schemas.topics import Channel
from model_fleet import (
    CLASS,
    DEVICE,
    FLEET,
    MODEL,
    ArtifactServer,
    Certificates,
    ModelFleet,
    golden,
    looping,
)
from unused_port import unused_port

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
PATIENCE_SECONDS = 120
needs_a_broker = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


def until(condition: Callable[[], Any]) -> Any:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    return found


@dataclass
class Centre:
    """The other side: publishes manifests, acknowledges what arrives in order."""

    port: int
    certificates: Certificates
    online: OnlineKeys
    public_key: Any = None
    acked: int = 0
    telemetry_acked: int = 0
    events: list[str] = field(default_factory=list)
    reports: list[ReportedState] = field(default_factory=list)
    windows: int = 0

    def connect(self) -> None:
        context = ssl.create_default_context(cafile=str(self.certificates.ca_path))
        context.load_cert_chain(*self.certificates.device("controller"))
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "centre", protocol=paho.MQTTv5)
        self._client.tls_set_context(context)
        self._client.on_message = self._on_message
        self._client.connect("localhost", self.port)
        self._client.subscribe(f"mb/1/{FLEET}/site/#", 1)
        self._client.loop_start()

    def publish(self, bundle: bytes) -> None:
        topic = topics.build(Channel.MANIFEST, fleet=FLEET, hardware_class=CLASS)
        self._client.publish(topic, bundle, 1, retain=True).wait_for_publish(PATIENCE_SECONDS)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def open(self, payload: bytes, payload_type: str) -> bytes:
        return open_from_device(decode(Envelope, payload), payload_type, self.public_key, DEVICE)

    def _on_message(self, client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        payload = bytes(message.payload)
        match topics.parse(message.topic).channel:
            case Channel.EVENTS:
                batch = decode(EventBatch, self.open(payload, PayloadType.EVENT_BATCH))
                for event in batch.events:
                    if event.sequence == self.acked + 1:
                        self.acked += 1
                        self.events.append(f"{event.kind} {event.version}")
                epoch = batch.epoch
            case Channel.TELEMETRY:
                windows = self.open(payload, PayloadType.TELEMETRY_BATCH)
                telemetry = decode(TelemetryBatch, windows)
                self.telemetry_acked = telemetry.windows[-1].sequence
                self.windows += len(telemetry.windows)
                epoch = telemetry.epoch
            case Channel.HELLO:
                epoch = decode(Hello, self.open(payload, PayloadType.HELLO)).epoch
            case Channel.REPORT:
                signed = self.open(payload, PayloadType.REPORTED_STATE)
                self.reports.append(decode(ReportedState, signed))
                return
            case _:
                return
        ack = Ack(
            device=DEVICE,
            epoch=epoch,
            events_acked=self.acked,
            telemetry_acked=self.telemetry_acked,
        )
        client.publish(message.topic.split("/up/")[0] + "/dn/ack", self.online.sign_ack(ack))


@dataclass
class Site:
    directory: Path
    fleet: ModelFleet
    server: ArtifactServer
    centre: Centre
    kit: Path
    agent: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        return self.directory / "device" / "agent.toml"

    def enroll(self) -> int:
        self.config.parent.mkdir(exist_ok=True)
        arguments = ["--kit", str(self.kit), "--device", DEVICE, "--config", str(self.config)]
        status = main(["enroll", *arguments])
        if status == 0:
            from mailboat_agent.identity.device_key import load_identity

            identity = self.config.parent / "identity"
            key = load_identity(identity / "device.key", identity / "device.pem").key
            self.centre.public_key = key.public_key()
        return status

    def run(self) -> None:
        self.agent = subprocess.Popen(
            [sys.executable, "-m", "mailboat_agent.cli", "run", "--config", str(self.config)],
            stderr=(self.directory / "agent.log").open("ab"),
        )

    def end(self, number: int) -> int:
        assert self.agent is not None
        self.agent.send_signal(number)
        status = self.agent.wait(PATIENCE_SECONDS)
        self.agent = None
        return status

    def read(self, name: str) -> dict[str, Any]:
        path = self.config.parent / "data" / name
        return json.loads(path.read_bytes()) if path.exists() else {}

    def phase(self) -> str:
        models = self.read("status.json").get("report", {}).get("models", [])
        return str(models[0]["phase"]) if models else ""

    def serves(self, version: str) -> bool:
        report = self.read("status.json").get("report", {})
        return [model["serving_version"] for model in report.get("models", [])] == [version]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def site(tmp_path: Path, certificates: Certificates) -> Iterator[Site]:
    fleet = ModelFleet(tmp_path / "ceremony")
    server = ArtifactServer(certificates, fleet.artifacts)
    port = unused_port()
    kit = tmp_path / "kit.json"
    content = {
        "fleet": FLEET,
        "hardware_class": CLASS,
        "site": "-",
        "api_url": server.url,
        "mqtt_host": "localhost",
        "mqtt_port": port,
        "ca": certificates.ca.decode(),
        "trust_root": fleet.factory_root.decode(),
        "token": ArtifactServer.TOKEN,
    }
    kit.write_text(json.dumps(content))
    site = Site(tmp_path, fleet, server, Centre(port, certificates, fleet.online), kit)
    yield site
    if site.agent is not None:
        site.agent.kill()
        site.agent.wait()
    server.close()


@pytest.fixture
def broker(site: Site, certificates: Certificates) -> Iterator[None]:
    assert MOSQUITTO is not None
    certificate, key = certificates.server()
    config = site.directory / "mosquitto.conf"
    config.write_text(
        f"listener {site.centre.port} 127.0.0.1\nset_tcp_nodelay true\n"
        f"cafile {certificates.ca_path}\ncertfile {certificate}\nkeyfile {key}\n"
        "require_certificate true\nuse_identity_as_username true\nallow_anonymous true\nuser root\n"
    )
    process = subprocess.Popen([MOSQUITTO, "-c", str(config)], stderr=subprocess.DEVNULL)
    until(lambda: socket.socket().connect_ex(("127.0.0.1", site.centre.port)) == 0)
    site.centre.connect()
    yield
    site.centre.close()
    process.kill()
    process.wait()


def infer(site: Site, values: list[float]) -> list[float]:
    url = f"{site.read('serving.json')['url']}/v2/models/{MODEL}/infer"
    x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": values}
    request = urllib.request.Request(url, json.dumps({"inputs": [x]}).encode())  # noqa: S310
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310
        output: list[float] = json.load(answer)["outputs"][0]["data"]
    return output


@pytest.mark.slow
@needs_a_broker
def test_from_the_kit_to_a_served_release_and_back_after_a_kill(site: Site, broker: None) -> None:
    assert site.enroll() == 0
    with site.config.open("r+") as file:
        rest = file.read()
        file.seek(0)
        file.write("telemetry_window_seconds = 0.3\n" + rest)
    site.run()
    a = site.fleet.model_release("1.0.0")
    site.centre.publish(site.fleet.current(a))
    until(lambda: "committed 1.0.0" in site.centre.events)
    assert infer(site, [1, 2, 3, 4]) == [3, 5, 7, 9]

    site.end(signal.SIGKILL)
    b = site.fleet.model_release("1.1.0", factor=3.0)
    site.centre.publish(site.fleet.offered(b, a))
    site.run()
    until(lambda: "committed 1.1.0" in site.centre.events)
    until(lambda: site.centre.reports[-1].models[0].serving_version == "1.1.0")
    until(lambda: site.centre.windows > 0)

    assert infer(site, [1, 2, 3, 4]) == [4, 7, 10, 13]
    assert [event for event in site.centre.events if event != "restarted 1.0.0"] == [
        f"{kind} {version}"
        for version in ("1.0.0", "1.1.0")
        for kind in ("trial_started", "soak_started", "committed")
    ]
    first, last = site.centre.reports[0].session, site.centre.reports[-1].session
    assert last == first + 1
    assert site.end(signal.SIGTERM) == 0
    with pytest.raises(NotFound):  # whatever file is left: nobody runs
        read_status(site.config.parent / "data")


@pytest.mark.slow
def test_without_a_broker_the_manifest_comes_over_https(site: Site) -> None:
    assert site.enroll() == 0
    settings = site.config.read_text()
    site.config.write_text("manifest_poll_seconds = 0.2\n" + settings)
    a = site.fleet.model_release("1.0.0")
    site.server.manifest = site.fleet.current(a)

    site.run()

    until(lambda: site.serves("1.0.0"))
    assert infer(site, [0, 0, 0, 0]) == [1, 1, 1, 1]


@pytest.mark.slow
def test_what_an_agent_and_its_workers_listen_on_is_loopback_alone(site: Site) -> None:
    assert site.enroll() == 0
    settings = site.config.read_text()
    site.config.write_text("manifest_poll_seconds = 0.2\n" + settings)
    site.server.manifest = site.fleet.current(site.fleet.model_release("1.0.0"))
    site.run()
    until(lambda: site.serves("1.0.0"))

    assert site.agent is not None
    agent = psutil.Process(site.agent.pid)
    everything = [agent, *agent.children(recursive=True)]
    assert len(everything) > 1
    listening = []
    for process in everything:
        # One that is gone meanwhile listens on nothing; a worker lets nobody but root look.
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            listening += [
                (each.laddr.ip, each.laddr.port)
                for each in process.net_connections("inet")
                if each.status == psutil.CONN_LISTEN
            ]

    served = urllib.parse.urlsplit(site.read("serving.json")["url"])
    assert listening == [("127.0.0.1", served.port)]


def test_status_tells_a_person_what_runs(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert site.enroll() == 0
    assert main(["status", "--config", str(site.config)]) == EXIT_FAILURE
    assert "No agent is running" in capsys.readouterr().err
    site.run()
    until(lambda: site.read("status.json"))

    assert main(["status", "--config", str(site.config)]) == 0

    told = capsys.readouterr().out
    assert f"device    {DEVICE} of {FLEET}, class {CLASS}" in told
    assert "not connected, not yet confirmed: 0 events, 0 telemetry windows" in told
    assert main(["status", "--json", "--config", str(site.config)]) == 0
    assert json.loads(capsys.readouterr().out)["pid"] == site.agent.pid  # type: ignore[union-attr]


@pytest.mark.slow
def test_two_agents_do_not_share_a_data_directory(site: Site) -> None:
    assert site.enroll() == 0
    site.run()
    until(lambda: site.read("serving.json"))

    second = subprocess.run(
        [sys.executable, "-m", "mailboat_agent.cli", "run", "--config", str(site.config)],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )

    assert second.returncode == EXIT_USAGE
    assert "Another agent uses the data directory" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.fixture
def silent_broker(site: Site) -> Iterator[None]:
    """Something accepts connections on the broker's port and never says a word."""
    with socket.create_server(("127.0.0.1", site.centre.port)):
        yield


def workers_of(pid: int) -> list[int]:
    mine = f"--parent-pid={pid}"
    found = psutil.process_iter(["cmdline"])
    return [each.pid for each in found if mine in (each.info["cmdline"] or [])]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["download", "trial"])
def test_told_to_stop_in_the_middle_it_ends_in_time_and_goes_on_later(
    site: Site, silent_broker: None, moment: str
) -> None:
    assert site.enroll() == 0
    settings = site.config.read_text()
    site.config.write_text("manifest_poll_seconds = 0.1\n" + settings)
    model = looping(1) if moment == "download" else looping()
    a = site.fleet.model_release("1.0.0", model=model, samples=golden(1.0, 0.0))
    site.server.manifest = site.fleet.current(a)
    site.server.stalls = moment == "download"
    site.run()
    assert site.agent is not None
    pid = site.agent.pid
    data = site.config.parent / "data"
    if moment == "download":
        until(lambda: any(path.stat().st_size for path in (data / "staging").glob("*.part")))
    else:
        until(lambda: site.phase() == "trial" and workers_of(pid))
    began = time.monotonic()

    assert site.end(signal.SIGTERM) == 0

    assert time.monotonic() - began < 20  # the download or the trial would take longer
    until(lambda: not workers_of(pid))
    site.server.stalls = False
    site.run()
    if moment == "download":
        until(lambda: site.serves("1.0.0"))
    else:
        until(lambda: site.phase() == "trial" and workers_of(site.agent.pid))  # type: ignore[union-attr]


@pytest.mark.slow
def test_told_to_stop_while_its_worker_hangs_it_ends_in_time(
    site: Site, silent_broker: None
) -> None:
    assert site.enroll() == 0
    settings = site.config.read_text()
    site.config.write_text("manifest_poll_seconds = 0.1\n" + settings)
    site.server.manifest = site.fleet.current(site.fleet.model_release("1.0.0"))
    site.run()
    assert site.agent is not None
    pid = site.agent.pid
    until(lambda: site.serves("1.0.0"))
    for worker in workers_of(pid):
        os.kill(worker, signal.SIGSTOP)

    def ask() -> None:
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            infer(site, [0, 0, 0, 0])

    client = threading.Thread(target=ask)
    client.start()
    time.sleep(0.3)
    began = time.monotonic()

    assert site.end(signal.SIGTERM) == 0

    assert time.monotonic() - began < 20
    client.join()
    until(lambda: not workers_of(pid))


def test_enrolling_again_keeps_the_key_and_what_was_set_by_hand(site: Site) -> None:
    assert site.enroll() == 0
    key = (site.config.parent / "identity" / "device.key").read_bytes()
    site.config.write_text('memory_budget = "64MiB"\n' + site.config.read_text())

    assert site.enroll() == 0

    assert (site.config.parent / "identity" / "device.key").read_bytes() == key
    assert 'memory_budget = "64MiB"' in site.config.read_text()
    assert (site.config.parent / "identity" / "device.key").stat().st_mode & 0o777 == 0o600


def test_a_spent_token_is_not_permitted_and_writes_no_configuration(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.kit.write_text(site.kit.read_text().replace(ArtifactServer.TOKEN, "spent" * 5))

    assert site.enroll() == EXIT_AUTH

    assert "next step:" in capsys.readouterr().err
    assert not site.config.exists()


def test_a_kit_that_is_none_is_refused_without_showing_its_secret(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.kit.write_text(json.dumps({"token": "a-secret-token-of-some-length"}))

    assert site.enroll() == EXIT_USAGE

    told = capsys.readouterr().err
    assert "is not an enrolment kit" in told
    assert "a-secret-token" not in told


def test_help_shows_how_a_device_begins(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])

    assert ended.value.code == 0
    assert "mailboat-agent enroll --kit kit.json" in capsys.readouterr().out
