"""A broker that belongs to the attacker: it lets anybody say anything, to a real controller."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import consuming_controller
from enrolled_fleet import EnrolledDevice, EnrolledFleet
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.store import events, outcomes, quarantine
from plain_broker import Peer, plain_broker

SECONDS_MAX = 60


@dataclass
class StolenBroker:
    """``says`` publishes as the broker itself would: on any topic, in anybody's name."""

    fleet: EnrolledFleet
    peer: Peer
    controller: subprocess.Popen[bytes]

    def enrol(self, name: str) -> EnrolledDevice:
        return self.fleet.enrol(name)

    def says(self, message: Incoming, *, retain: bool = False) -> None:
        self.peer.publish(message.topic, message.payload, retain=retain)

    def assert_set_aside(self, topic: str, code: str) -> None:
        """In the quarantine of the controller, under this code; and the controller lives."""
        self.until(lambda: code in self.codes(topic), lambda: f"{topic}: {self.codes(topic)}")
        assert self.controller.poll() is None

    def codes(self, topic: str) -> list[str]:
        with self.fleet.store.read() as tx:
            rows = quarantine.page(tx, limit=1000)
        return [row["code"] for row in rows if row["topic"] == topic]

    def stored(self, device: EnrolledDevice) -> list[int]:
        """Sequences of the events that count."""
        with self.fleet.store.read() as tx:
            return [row.sequence for row in events.page(tx, device.name, limit=1000)]

    def told(self, device: EnrolledDevice) -> list[tuple[str, str]]:
        """Kind and code of every event that the controller knows of."""
        with self.fleet.store.read() as tx:
            rows = events.page(tx, device.name, limit=1000)
        return [(row.kind, str(row.content.get("code", ""))) for row in rows]

    def verdicts(self, device: EnrolledDevice, digest: str) -> list[str]:
        """What counts for a gate."""
        with self.fleet.store.read() as tx:
            rows = outcomes.of_release(tx, digest)
        return [row.outcome.value for row in rows if row.device == device.name]

    def hears_from(self, device: EnrolledDevice, first: int, last: int) -> None:
        """An honest batch, after which everything said before has been dealt with."""
        self.says(device.numbered(first, last))
        self.until(lambda: last in self.stored(device), lambda: str(self.stored(device)))

    def until(self, condition: Callable[[], bool], otherwise: Callable[[], str]) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while not condition():
            assert time.monotonic() < deadline, otherwise()
            time.sleep(0.02)


@contextmanager
def stolen_broker(directory: Path) -> Iterator[StolenBroker]:
    fleet = EnrolledFleet(directory)
    with plain_broker(directory) as broker:
        program = str(Path(consuming_controller.__file__))
        log = directory / "controller.log"
        with log.open("wb") as output:
            controller = subprocess.Popen(
                [sys.executable, program, str(broker.port), str(directory / "mailboat.db")],
                stdout=output,
                stderr=output,
            )
        peer = Peer(broker.port, "attacker")
        stolen = StolenBroker(fleet, peer, controller)
        try:
            stolen.until(lambda: b"connected\n" in log.read_bytes(), log.read_text)
            yield stolen
        finally:
            peer.close()
            controller.kill()
            controller.wait()
            fleet.store.close()
