"""A real controller with its own data directory, and a real mosquitto with two doors: TLS with
certificates for the controller, plain on loopback for the simulated devices."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from bench.fleet.devices import Release
from sqlalchemy import func, select

from enrolled_fleet import CLASS, FLEET, EnrolledDevice
from mailboat_controller import data_directory
from mailboat_controller.artifacts.directory import DirectoryStore
from mailboat_controller.broker.embedded import find_mosquitto
from mailboat_controller.client import ApiClient
from mailboat_controller.config import ControllerSettings, load
from mailboat_controller.pki.issuing import Authority
from mailboat_controller.store import classes, devices, tables
from mailboat_controller.store.engine import Store
from mailboat_schemas.codec import encode
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.submission import Submission
from trust_fleet import TrustFleet

START_SECONDS_MAX = 60.0
MODEL, VERSION = "vad", "1.0.0"


class Site:
    def __init__(self, directory: Path, plain_port: int, tls_port: int) -> None:
        self._directory = directory
        self.port, self._tls_port = plain_port, tls_port
        now = datetime.now(UTC)
        self._trust = TrustFleet(directory / "ceremony", now=now)
        data_directory.create(
            directory / "data",
            fleet=FLEET,
            trust=self._trust.directory,
            now=now,
            listen_port=0,
            mqtt_port=tls_port,
        )
        config = directory / "data" / "controller.toml"
        config.write_text(
            config.read_text().replace("embedded_broker = true", "embedded_broker = false")
        )
        self._config = config
        self.settings: ControllerSettings = load(config)
        self._broker: subprocess.Popen[bytes] | None = None
        self._controller: subprocess.Popen[bytes] | None = None
        self._write_broker_config(now)

    # --- what is there before it starts ----------------------------------------------------------

    def enrol(self, count: int) -> list[EnrolledDevice]:
        found = [EnrolledDevice(f"dev-{n:05}") for n in range(count)]
        now = datetime.now(UTC)
        document = {
            "apiVersion": "mailboat/v1",
            "kind": "HardwareClass",
            "metadata": {"name": CLASS},
            "spec": {"arch": "x86_64", "memory_budget": "1GiB", "disk_budget": "9GiB"},
        }
        store = Store(self.settings.store_url)
        with store.transaction() as tx:
            classes.put(tx, HardwareClass.model_validate(document), now)
            for device in found:
                devices.enrol(
                    tx,
                    device=device.name,
                    hardware_class=CLASS,
                    site="-",
                    labels={},
                    public_key=device.public_key,
                    at=now,
                )
        store.close()
        return found

    def release(self) -> Release:
        """Signed and approved for everybody at once; not submitted yet."""
        path = DirectoryStore(self.settings.artifacts_dir).path("ab" * 32)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"onnx")
        return Release(MODEL, VERSION, self._trust.release(VERSION))

    def _write_broker_config(self, now: datetime) -> None:
        authority = Authority.load(self.settings.pki_dir)
        files = authority.server_files(["localhost", "127.0.0.1"], now=now)
        directory = self._directory / "broker"
        directory.mkdir()
        lines = [
            f"user {'root' if os.geteuid() == 0 else 'mosquitto'}",
            "per_listener_settings true",
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous true",
            f"listener {self._tls_port} 127.0.0.1",
            f"cafile {files.ca}",
            f"certfile {files.certificate}",
            f"keyfile {files.key}",
            "require_certificate true",
            "use_identity_as_username true",
            # From here on as shipped: broker-config/mosquitto/central.conf.
            "set_tcp_nodelay true",
            "max_packet_size 1048576",
            "max_inflight_messages 1000",
            "max_queued_messages 500000",
            "max_queued_bytes 0",
            "persistent_client_expiration 14d",
            "persistence true",
            f"persistence_location {directory}/",
            "autosave_interval 15",
        ]
        (directory / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    # --- processes -------------------------------------------------------------------------------

    def start_broker(self) -> None:
        directory = self._directory / "broker"
        with (directory / "mosquitto.log").open("ab") as log:
            self._broker = subprocess.Popen(
                [str(find_mosquitto()), "-c", str(directory / "mosquitto.conf")],
                stdout=log,
                stderr=log,
            )

    def kill_broker(self) -> None:
        if self._broker is not None:
            self._broker.kill()
            self._broker.wait()
            self._broker = None

    def start_controller(self) -> None:
        with (self._directory / "controller.log").open("ab") as log:
            self._controller = subprocess.Popen(
                [*(sys.executable, "-m", "mailboat_controller", "serve"), "--config", self._config],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self.settings.serving_file.exists():
            if self._controller.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._directory / "controller.log").read_text()[-2000:])
            time.sleep(0.05)

    @property
    def controller_pid(self) -> int:
        assert self._controller is not None
        return self._controller.pid

    @property
    def broker_pid(self) -> int:
        assert self._broker is not None
        return self._broker.pid

    def stop(self) -> None:
        if self._controller is not None:
            self._controller.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._controller.wait(START_SECONDS_MAX)
            self._controller.kill()
        self.kill_broker()

    # --- what people do --------------------------------------------------------------------------

    def submit(self) -> float:
        """Hand the release in over HTTPS; when that began (monotonic)."""
        out = self._directory / "build"
        if not out.exists():
            data_directory.issue_credential(
                self.settings,
                Kind.CI,
                "build",
                out,
                actor="local:bench",
                now=datetime.now(UTC),
            )
        names = ("release-vad", "approval-vad")
        roles = {name: self._trust.roles[name] for name in names}
        content = encode(Submission(fleet=FLEET, roles=roles, documents=self._trust.documents))
        with ApiClient.open(out / "connection.toml") as client:
            began = time.monotonic()
            reply = client.submit(content)
        if reply.status != "accepted":
            raise RuntimeError(f"the release was not accepted: {reply}")
        return began


def told(settings: ControllerSettings) -> dict[str, int]:
    """What is in the database."""
    store = Store(settings.store_url)
    try:
        with store.read() as tx:
            c = tables.events.c
            query = select(func.count(), func.count(func.distinct(c.device + ":" + c.event_id)))
            rows, different = tx.execute(query).one()
            ok = tables.outcomes.c.outcome == "ok"
            outcomes = tx.execute(select(func.count()).where(ok)).scalar_one()
            aside = tx.execute(select(func.count()).select_from(tables.quarantine)).scalar_one()
            online = tx.execute(
                select(func.count()).where(tables.devices.c.online.is_(True))
            ).scalar_one()
    finally:
        store.close()
    return {
        "events": rows,
        "different_events": different,
        "outcomes_ok": outcomes,
        "set_aside": aside,
        "online": online,
    }
