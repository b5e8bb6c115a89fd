"""Several processes take in what devices say; whichever is killed, nothing is lost or doubled.

A real PostgreSQL, the real broker with TLS and its access rules, `mailboat serve` and
`mailboat ingest` as processes of their own.
"""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from sqlalchemy import text

from enrolled_fleet import EnrolledDevice
from mailboat_controller import data_directory
from mailboat_controller.config import ControllerSettings, load
from mailboat_controller.ingest.partition import partition_of
from mailboat_controller.pki.issuing import Authority
from mailboat_controller.store import audit, classes, devices, ingest_partitions
from mailboat_controller.store.engine import Store
from mailboat_schemas.codec import decode
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.envelope import Envelope
from mailboat_schemas.reports import Ack
from mailboat_schemas.topics import Channel
from postgres_server import PostgresServer, postgres_server, programs
from trust_fleet import CLASS, FLEET, TrustFleet
from unused_port import unused_port

# Each waits for several things in turn, each of which may take its time on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SECONDS = 300
PARTITIONS = 2
EVENTS = 60  # of each device
AT_ONCE = 5
AGAIN_SECONDS = 3.0


@dataclass
class Site:
    """A data directory whose database is a PostgreSQL, and the programs that run on it."""

    directory: Path
    url: str
    programs: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    arguments: dict[str, tuple[str, ...]] = field(default_factory=dict)
    partitions: int = PARTITIONS
    supervised: bool = False  # what ends because its lock is gone is started again

    def __post_init__(self) -> None:
        now = datetime.now(UTC)
        trust = TrustFleet(self.directory / "ceremony", now=now)
        port = unused_port()
        data = self.directory / "data"
        data_directory.create(
            data, fleet=FLEET, trust=trust.directory, now=now, listen_port=0, mqtt_port=port
        )
        self.config = data / "controller.toml"
        self._written = self.config.read_text()
        self.set_partitions(self.partitions)
        assert tomllib.loads(self.config.read_text())["ingest"]["partitions"] == self.partitions
        self.settings: ControllerSettings = load(self.config)
        self.authority = Authority.load(self.settings.pki_dir)
        self.store = Store(self.url)
        self.store.migrate()
        document = {
            "apiVersion": "mailboat/v1",
            "kind": "HardwareClass",
            "metadata": {"name": CLASS},
            "spec": {"arch": "x86_64", "memory_budget": "1GiB", "disk_budget": "9GiB"},
        }
        with self.store.transaction() as tx:
            classes.put(tx, HardwareClass.model_validate(document), now)

    def set_partitions(self, count: int) -> None:
        self.config.write_text(
            f'database_url = "{self.url}"\n{self._written}\n[ingest]\npartitions = {count}\n'
        )

    def start(self, name: str, *arguments: str) -> None:
        self.arguments[name] = arguments
        log = (self.directory / f"{name}.log").open("ab")
        self.programs[name] = subprocess.Popen(
            [
                *(sys.executable, "-m", "mailboat_controller", *arguments),
                *("--config", str(self.config)),
            ],
            stdout=log,
            stderr=log,
            env={**os.environ, "MAILBOAT_LOG_FORMAT": "json"},
        )

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        process = self.programs.pop(name)
        process.send_signal(number)
        process.wait(SECONDS)

    def kill_broker_left(self) -> None:
        """Of a leader that could not take it along."""
        with suppress(FileNotFoundError, ValueError, ProcessLookupError):
            os.kill(int((self.settings.broker_dir / "mosquitto.pid").read_text()), signal.SIGKILL)

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            for name, process in list(self.programs.items()):
                if process.poll() is not None:
                    assert self.supervised, self.log(name)[-3000:]
                    assert "E-LOCK-LOST" in self.log(name), self.log(name)[-3000:]
                    self.start(name, *self.arguments[name])
            assert time.monotonic() < deadline, self.last_words()
            time.sleep(0.05)

    def last_words(self) -> str:
        return "\n".join(f"--- {name}\n{self.log(name)[-1500:]}" for name in self.arguments)

    def holders(self) -> dict[int, str]:
        with self.store.read() as tx:
            rows = ingest_partitions.every(tx)
        return {row.partition: row.holder for row in rows if row.broker_connected}

    def stored(self) -> dict[str, list[int]]:
        with self.store.read() as tx:
            rows = tx.execute(text("SELECT device, sequence FROM events ORDER BY id")).fetchall()
        found: dict[str, list[int]] = {}
        for device, sequence in rows:
            found.setdefault(device, []).append(sequence)
        return found


class Speaker:
    """A device that sends its events in order and again, as its outbox would, until each is
    acknowledged."""

    def __init__(self, site: Site, name: str) -> None:
        issued = site.authority.issue_credential(Kind.DEVICE, name, now=datetime.now(UTC))
        key: Any = load_pem_private_key(issued.key or b"", None)
        pair = site.directory / f"{name}.pem"
        pair.write_bytes(issued.certificate + (issued.key or b""))
        self.device = EnrolledDevice(name, key=key)
        with site.store.transaction() as tx:
            devices.enrol(
                tx,
                device=name,
                hardware_class=CLASS,
                site="-",
                labels={},
                public_key=self.device.public_key,
                at=datetime.now(UTC),
            )
        self.acked = 0
        self._said = -1  # where it stood when it spoke last
        self._again_at = 0.0
        self._tls = ssl.create_default_context(cafile=str(site.authority.ca_path))
        self._tls.load_cert_chain(pair)
        self._port = site.settings.mqtt_port
        self._client = Client(
            CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv5
        )

    def connect(self) -> None:
        self._client.tls_set_context(self._tls)
        self._client.reconnect_delay_set(1, 2)
        self._client.on_connect = lambda client, *_: client.subscribe(
            self.device.topic(Channel.ACK), 1
        )
        self._client.on_message = self._on_ack
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()

    def say(self) -> None:
        """Go on; or say it again when nothing came of it for a while, as an outbox does."""
        if self.acked == self._said and time.monotonic() < self._again_at:
            return
        self._said, self._again_at = self.acked, time.monotonic() + AGAIN_SECONDS
        first = self.acked + 1
        for n in range(first, min(first + AT_ONCE, EVENTS + 1)):
            message = self.device.numbered(n, n)
            self._client.publish(message.topic, message.payload, qos=1)
        hello = self.device.hello(first, EVENTS)
        self._client.publish(hello.topic, hello.payload, qos=1)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_ack(self, _client: Any, _userdata: Any, message: Any) -> None:
        ack = decode(Ack, decode(Envelope, bytes(message.payload)).payload)
        self.acked = max(self.acked, ack.events_acked)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    if programs() is None or shutil.which("psql") is None:
        pytest.skip("no PostgreSQL here (Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg")
    with postgres_server() as server:
        yield server


@contextmanager
def running(tmp_path: Path, postgres: PostgresServer) -> Iterator[Site]:
    with served(Site(tmp_path, postgres.database())) as site:
        yield site


@contextmanager
def served(site: Site) -> Iterator[Site]:
    try:
        site.start("serve", "serve")
        site.until(site.settings.serving_file.exists)
        yield site
    finally:
        for name in list(site.programs):
            site.kill(name, signal.SIGTERM)  # a leader takes its broker along
        site.kill_broker_left()
        site.store.close()


def saying(speakers: list[Speaker]) -> Callable[[int], Callable[[], bool]]:
    """They speak whenever it is looked whether so many of their events are acknowledged."""

    def up_to(count: int) -> Callable[[], bool]:
        def look() -> bool:
            for speaker in speakers:
                if speaker.acked < EVENTS:
                    speaker.say()
            return sum(speaker.acked for speaker in speakers) >= count

        return look

    return up_to


def test_kill_9_of_any_of_them_loses_and_doubles_nothing(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    with running(tmp_path, postgres) as site:
        for n in range(PARTITIONS):
            site.start(f"ingest-{n}", "ingest", "--partition", str(n))
        speakers = [Speaker(site, f"dev-{n}") for n in range(6)]
        assert len({partition_of(each.device.name, PARTITIONS) for each in speakers}) == 2
        site.until(lambda: len(site.holders()) == PARTITIONS)
        first = site.holders()[0]
        site.start("standby", "ingest", "--partition", "0")
        site.until(lambda: "waiting to take over" in site.log("standby"))
        for speaker in speakers:
            speaker.connect()

        said_up_to = saying(speakers)
        total = EVENTS * len(speakers)
        site.until(said_up_to(total // 4))
        site.kill("ingest-0")  # the standby takes over
        site.until(said_up_to(total // 2))
        site.until(lambda: site.holders().get(0, first) != first)
        site.kill("ingest-1")  # nobody is there until one is started again
        time.sleep(0.5)
        site.start("ingest-1", "ingest", "--partition", "1")
        site.until(said_up_to(3 * total // 4))
        site.kill("serve")  # the leader: its broker goes with it or stays; another one leads
        site.settings.serving_file.unlink(missing_ok=True)
        site.start("serve", "serve")
        site.until(said_up_to(total))
        for speaker in speakers:
            speaker.close()

        assert site.stored() == {each.device.name: list(range(1, EVENTS + 1)) for each in speakers}


def test_each_process_shows_its_own_figures_and_works_without_a_port(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    with (
        running(tmp_path, postgres) as site,
        socket.create_server(("127.0.0.1", 0)) as first,
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        # Partition 1 finds its port taken, partition 0 has one of its own.
        taken_port = taken.getsockname()[1]
        own_port = first.getsockname()[1]
        first.close()
        plain = site.config.read_text()
        for n, port in ((0, own_port), (1, taken_port - 1)):
            site.config.write_text(f"{plain}metrics_port = {port}\n")
            site.start(f"ingest-{n}", "ingest", "--partition", str(n))
            site.until(partial(working, site, n))

        site.until(lambda: "mailboat_broker_connected 1.0" in figures(own_port))
        speaker = next(
            speaker
            for speaker in (Speaker(site, f"dev-{n}") for n in range(20))
            if partition_of(speaker.device.name, PARTITIONS) == 0
        )
        speaker.connect()
        site.until(saying([speaker])(EVENTS))
        speaker.close()

        site.until(lambda: f" {EVENTS}.0\n" in figures(own_port))  # events ingested, of one kind
        assert "mailboat_devices{" not in figures(own_port)  # `serve` shows the fleet
        assert "our figures are not shown" in site.log("ingest-1")


def working(site: Site, partition: int) -> bool:
    return partition in site.holders()


def figures(port: int) -> str:
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=SECONDS) as answer:
            content: bytes = answer.read()
    except URLError:
        return ""
    return content.decode()


def test_a_second_leader_waits_and_leads_when_the_first_is_killed(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    with running(tmp_path, postgres) as site:
        before = json.loads(site.settings.serving_file.read_text())["pid"]
        site.start("second", "serve")
        site.until(lambda: "waiting to take over" in site.log("second"))
        assert Counter(site.log("second"))["\n"] <= 3  # it opened nothing yet

        site.settings.serving_file.unlink()
        site.kill("serve")

        site.until(site.settings.serving_file.exists)
        after = json.loads(site.settings.serving_file.read_text())["pid"]
        assert after != before


def test_a_database_that_is_started_again_in_the_middle_loses_and_doubles_nothing(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    """First connections are cut one by one, then the server is gone for seconds. Whoever had a lock
    ends and says so, and is started again."""
    with running(tmp_path, postgres) as site:
        for n in range(PARTITIONS):
            site.start(f"ingest-{n}", "ingest", "--partition", str(n))
        speakers = [Speaker(site, f"dev-{n}") for n in range(4)]
        site.until(lambda: len(site.holders()) == PARTITIONS)
        for speaker in speakers:
            speaker.connect()
        said_up_to, total = saying(speakers), EVENTS * len(speakers)
        site.until(said_up_to(total // 4))
        site.supervised = True

        postgres.sql(
            "postgres",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND backend_type = 'client backend'",
        )
        site.until(said_up_to(total // 2))
        postgres.stop()
        for speaker in speakers:
            speaker.say()
        time.sleep(1.0)
        postgres.start()
        site.until(said_up_to(total))
        for speaker in speakers:
            speaker.close()

        assert site.stored() == {each.device.name: list(range(1, EVENTS + 1)) for each in speakers}
        # Each looks at its lock in its own time.
        site.until(lambda: all("E-LOCK-LOST" in site.log(name) for name in site.arguments))
        logs = {name: site.log(name) for name in site.arguments}
        assert {name: log for name, log in logs.items() if "Traceback" in log} == {}


def test_twice_as_many_partitions_with_messages_on_their_way_lose_and_double_nothing(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    """One of the old ones is killed with messages for it at the broker; the other goes on for a
    while beside the new ones."""
    with running(tmp_path, postgres) as site:
        for n in range(PARTITIONS):
            site.start(f"ingest-{n}", "ingest", "--partition", str(n))
        speakers = [Speaker(site, f"dev-{n}") for n in range(8)]
        assert len({partition_of(each.device.name, 2 * PARTITIONS) for each in speakers}) == 4
        site.until(lambda: len(site.holders()) == PARTITIONS)
        for speaker in speakers:
            speaker.connect()
        said_up_to, total = saying(speakers), EVENTS * len(speakers)
        site.until(said_up_to(total // 4))
        site.kill("ingest-0")
        for speaker in speakers:
            speaker.say()

        site.kill("serve", signal.SIGTERM)
        site.set_partitions(2 * PARTITIONS)
        site.settings.serving_file.unlink(missing_ok=True)
        site.start("serve", "serve")
        site.until(site.settings.serving_file.exists)
        for n in range(2 * PARTITIONS):
            site.start(f"new-{n}", "ingest", "--partition", str(n))
        site.until(lambda: "waiting to take over" in site.log("new-1"))
        site.until(said_up_to(3 * total // 4))
        site.kill("ingest-1")
        site.until(said_up_to(total))
        site.until(lambda: len(site.holders()) == 2 * PARTITIONS)
        for speaker in speakers:
            speaker.close()

        assert site.stored() == {each.device.name: list(range(1, EVENTS + 1)) for each in speakers}


def test_a_controller_moves_from_sqlite_to_postgresql_and_its_devices_notice_nothing(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    """The commands of docs/scale-out.md."""
    with served(Site(tmp_path, f"sqlite:///{tmp_path / 'old.db'}", partitions=0)) as site:
        speakers = [Speaker(site, f"dev-{n}") for n in range(3)]
        for speaker in speakers:
            speaker.connect()
        said_up_to, total = saying(speakers), EVENTS * len(speakers)
        site.until(said_up_to(total // 2))
        target = postgres.database()
        command = (sys.executable, "-m", "mailboat_controller", "db", "copy", "--to", target)
        options = ("--reason", "grown", "--config", str(site.config), "--json")

        early = subprocess.run([*command, *options], check=False, capture_output=True, text=True)
        assert json.loads(early.stderr)["code"] == "E-DATABASE-COPY"  # it is in use
        site.kill("serve", signal.SIGTERM)
        site.settings.serving_file.unlink(missing_ok=True)
        done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
        assert json.loads(done.stdout)["rows"] > total // 2

        site.store.close()
        site.url, site.store = target, Store(target)
        site.set_partitions(PARTITIONS)
        site.start("serve", "serve")
        site.until(site.settings.serving_file.exists)
        for n in range(PARTITIONS):
            site.start(f"ingest-{n}", "ingest", "--partition", str(n))
        site.until(said_up_to(total))
        for speaker in speakers:
            speaker.close()

        assert site.stored() == {each.device.name: list(range(1, EVENTS + 1)) for each in speakers}
        with site.store.read() as tx:
            assert audit.verify(tx) is None
