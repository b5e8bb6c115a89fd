"""mosquitto killed with -9 at random under load: every event arrives once, in its order.

With mosquitto as it comes (nothing persistent, a queue of a thousand, no TLS) and with the
configuration that we ship. Real journals, outboxes and links of agents, the real taking half of a
controller as a process.
"""

import asyncio
import os
import random
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

import taking_controller
from broker_site import Site
from enrolled_fleet import EnrolledFleet
from mailboat_controller.broker.embedded import find_mosquitto
from mailboat_controller.demo.fleet import until
from mailboat_controller.store import events, quarantine
from mailboat_schemas.enrolment import Kind
from talking_device import TalkingDevice
from unused_port import unused_port

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("MAILBOAT_KILL_SEED", "20261121"))  # printed when it fails
NAMES = ("dev-1", "dev-2", "dev-9")  # those that the site's access rules know
KILLS = 6
MOMENT_SECONDS_MAX = 1.5  # between two kills
AWAY_SECONDS_MAX = 0.5
BURST_EVENTS_MAX = 40  # that a device records at once
BURSTS_PER_KILL = 12
SECONDS_MAX = 240.0


class KilledBroker(Protocol):
    port: int

    def start(self) -> None: ...
    def kill(self) -> None: ...
    def controller_files(self) -> list[Path]: ...
    def tls(self, name: str) -> ssl.SSLContext | None: ...


class AsItComes:
    """A listener, and mosquitto's own defaults for everything else."""

    def __init__(self, directory: Path) -> None:
        self._config = directory / "mosquitto.conf"
        self._log = directory / "mosquitto.log"
        self.port = unused_port()
        self._config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n")

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(find_mosquitto()), "-c", str(self._config)], stdout=log, stderr=log
            )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def controller_files(self) -> list[Path]:
        return []

    def tls(self, _name: str) -> ssl.SSLContext | None:
        return None


class AsShipped:
    """`broker-config/mosquitto/central.conf`: TLS, access rules, persistent, long queues."""

    def __init__(self, directory: Path) -> None:
        self._site = Site(directory)
        self.port = self._site.broker.port

    def start(self) -> None:
        self._site.broker.start()

    def kill(self) -> None:
        pid = self._site.broker.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        self._site.broker.stop()  # waits for it

    def controller_files(self) -> list[Path]:
        files = self._site.files(Kind.CONTROLLER, "controller")
        return [files.ca, files.certificate, files.key]

    def tls(self, name: str) -> ssl.SSLContext | None:
        files = self._site.files(Kind.DEVICE, name)
        context = ssl.create_default_context(cafile=str(files.ca))
        context.load_cert_chain(files.certificate, files.key)
        return context


@contextmanager
def taking(broker: KilledBroker, database: Path) -> Iterator[None]:
    files = [str(path) for path in broker.controller_files()]
    log = database.with_suffix(".log")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, taking_controller.__file__, str(broker.port), str(database), *files],
            stdout=output,
            stderr=output,
        )
        try:
            until("it is connected", lambda: b"connected\n" in log.read_bytes(), SECONDS_MAX)
            yield
            assert process.poll() is None, log.read_text()
        finally:
            process.kill()
            process.wait()


@contextmanager
def talking(devices: list[TalkingDevice]) -> Iterator[None]:
    """All of them in one loop, in a thread: killing a broker waits."""
    finished = asyncio.Event()
    loop = asyncio.new_event_loop()

    async def live() -> None:
        async with asyncio.TaskGroup() as group:
            for device in devices:
                group.create_task(device.live(finished))

    thread = threading.Thread(target=lambda: loop.run_until_complete(live()))
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(finished.set)
        thread.join(SECONDS_MAX)
        loop.close()
        for device in devices:
            device.journal.close()


@pytest.mark.parametrize("kind", [AsItComes, AsShipped])
def test_a_broker_that_is_killed_under_load_loses_and_doubles_nothing(
    tmp_path: Path, kind: type[AsItComes] | type[AsShipped]
) -> None:
    rng, under_load = random.Random(SEED), 0
    (tmp_path / "broker").mkdir()
    broker = kind(tmp_path / "broker")
    fleet = EnrolledFleet(tmp_path / "controller")
    devices = [
        TalkingDevice(tmp_path / name, fleet.enrol(name), broker.port, broker.tls(name))
        for name in NAMES
    ]
    broker.start()
    try:
        with taking(broker, tmp_path / "controller" / "mailboat.db"), talking(devices):
            until("all have connected", lambda: all(d.connections for d in devices), SECONDS_MAX)
            for _ in range(KILLS):
                pause = rng.random() * MOMENT_SECONDS_MAX / BURSTS_PER_KILL
                for _ in range(BURSTS_PER_KILL):
                    threading.Event().wait(pause)
                    rng.choice(devices).record(rng.randint(1, BURST_EVENTS_MAX))
                under_load += any(device.unconfirmed for device in devices)
                broker.kill()
                threading.Event().wait(rng.random() * AWAY_SECONDS_MAX)
                broker.start()
            for device in devices:
                until(
                    f"{device.device.name} is confirmed",
                    lambda device=device: device.unconfirmed == 0,
                    SECONDS_MAX,
                )
    finally:
        broker.kill()

    assert under_load, "nothing was on its way at any kill"
    assert all(device.connections >= 2 for device in devices)
    with fleet.store.read() as tx:
        assert quarantine.count(tx) == 0
        for device in devices:
            rows = events.page(tx, device.device.name, limit=1_000_000)
            assert [row.sequence for row in rows] == list(range(1, device.recorded + 1)), SEED
    fleet.store.close()
