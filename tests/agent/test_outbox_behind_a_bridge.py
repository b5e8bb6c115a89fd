"""What tells a site's devices that the centre is back: the bridge delivers what is retained anew.

Two real mosquittos. The connection of the devices to theirs never breaks.
"""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from mailboat_controller.broker.embedded import find_mosquitto
from plain_broker import Peer
from unused_port import unused_port

FAR_SECONDS = 60.0
TOPIC = "mb/1/demo/class/kiosk/manifest"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Broker:
    def __init__(self, directory: Path, *more: str) -> None:
        directory.mkdir()
        self.port = unused_port()
        self._config = directory / "mosquitto.conf"
        lines = [
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous true",
            "persistence true",
            f"persistence_location {directory}/",
            "user root",
            *more,
        ]
        self._config.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [str(find_mosquitto()), "-c", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def stop(self) -> None:
        """As at a shutdown: what is retained is on the disk."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None


@pytest.fixture
def brokers(tmp_path: Path) -> Iterator[tuple[Broker, Broker]]:
    centre = Broker(tmp_path / "centre")
    site = Broker(  # the bridge as in broker-config/mosquitto/site.conf, without TLS
        tmp_path / "site",
        "connection harbour",
        f"address 127.0.0.1:{centre.port}",
        "bridge_protocol_version mqttv311",
        "try_private true",
        "cleansession false",
        "local_cleansession false",
        "restart_timeout 1 2",
        "topic mb/1/demo/class/# in 1",
    )
    with ExitStack() as stack:
        for broker in (centre, site):
            stack.callback(broker.stop)
            broker.start()
        yield centre, site


def peer(port: int, name: str, *filters: str) -> Peer:
    """Once its broker listens."""
    while True:
        try:
            return Peer(port, name, *filters)
        except ConnectionRefusedError:
            pass


def test_a_bridge_that_connects_again_delivers_the_retained_manifest_anew(
    brokers: tuple[Broker, Broker],
) -> None:
    centre, site = brokers
    with closing(peer(centre.port, "controller")) as controller:
        controller.publish(TOPIC, b"manifest", retain=True)
    with closing(peer(site.port, "kiosk-1", TOPIC)) as device:
        device.until(lambda: device.heard, FAR_SECONDS)
        heard = len(device.heard)

        centre.stop()
        centre.start()

        device.until(lambda: len(device.heard) > heard, FAR_SECONDS)
        assert device.heard[-1].payload == b"manifest"
        assert not device.heard[-1].retain  # it came just now, over a subscription that stands
