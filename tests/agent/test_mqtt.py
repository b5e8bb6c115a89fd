"""The link, against a real mosquitto on loopback."""

import asyncio
import contextlib
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from mailboat_agent.link import mqtt
from mailboat_agent.link.mqtt import Broker, Link, LinkDown, LinkUp, Message
from mailboat_schemas.codec import decode
from mailboat_schemas.reports import Presence
from unused_port import unused_port

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
STATUS, WISHES = "mb/1/demo/site/-/dev/kiosk-1/st", "mb/1/demo/class/kiosk/manifest"
PATIENCE_SECONDS = 60
Kind = TypeVar("Kind")


class Mosquitto:
    """A broker that forgets everything when it is killed."""

    def __init__(self, directory: Path) -> None:
        self.port = unused_port()
        self._config = directory / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert MOSQUITTO is not None
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        give_up = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < give_up:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise AssertionError("mosquitto did not start")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Peer:
    """Somebody else on the broker: publishes, and collects what it is sent."""

    def __init__(self, broker: Mosquitto, topic: str = "#") -> None:
        self.heard: list[paho.MQTTMessage] = []
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "peer", protocol=paho.MQTTv5)
        self._client.on_message = lambda _client, _data, message: self.heard.append(message)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        self._client.subscribe(topic, 1)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, 1, retain).wait_for_publish(PATIENCE_SECONDS)

    def presences(self) -> list[bool]:
        found = [m.payload for m in self.heard if m.topic == STATUS]
        return [decode(Presence, payload).online for payload in found]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path)
    yield broker
    broker.kill()


@pytest.fixture
def peer(broker: Mosquitto) -> Iterator[Peer]:
    broker.start()
    peer = Peer(broker)
    yield peer
    peer.close()


def link_to(broker: Mosquitto, session: int = 1) -> Link:
    return Link(
        Broker("127.0.0.1", broker.port, None, 60, 0.05, 0.2),
        device="kiosk-1",
        session=session,
        status_topic=STATUS,
        subscriptions=[(WISHES, 1)],
        seal=lambda _kind, payload: payload,
        rng=random.Random(1),
    )


async def next_of(link: Link, kind: type[Kind]) -> Kind:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            item = await link.receive()
            if isinstance(item, kind):
                return item


async def stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.01)


def test_it_announces_itself_and_says_goodbye(broker: Mosquitto, peer: Peer) -> None:
    async def story() -> None:
        link = link_to(broker, session=5)
        running = asyncio.create_task(link.run())
        await next_of(link, LinkUp)
        await until(lambda: peer.presences() == [True])
        await stopped(running)

    asyncio.run(story())
    give_up = time.monotonic() + PATIENCE_SECONDS
    while peer.presences() != [True, False] and time.monotonic() < give_up:
        time.sleep(0.01)

    assert peer.presences() == [True, False]
    assert decode(Presence, peer.heard[-1].payload).session == 5


def test_it_hears_what_is_retained_and_what_comes_later(broker: Mosquitto, peer: Peer) -> None:
    peer.publish(WISHES, b"first", retain=True)

    async def story() -> list[bytes]:
        link = link_to(broker)
        running = asyncio.create_task(link.run())
        first = await next_of(link, Message)
        link.acknowledge(first)
        peer.publish(WISHES, b"second")
        second = await next_of(link, Message)
        link.acknowledge(second)
        await stopped(running)
        return [first.payload, second.payload]

    assert asyncio.run(story()) == [b"first", b"second"]


def test_what_was_not_acknowledged_comes_again(broker: Mosquitto, peer: Peer) -> None:
    async def story() -> list[bytes]:
        link = link_to(broker)
        running = asyncio.create_task(link.run())
        await next_of(link, LinkUp)
        await until(lambda: peer.presences() == [True])
        peer.publish(WISHES, b"one")
        await next_of(link, Message)  # handled, but the process dies before it acknowledges
        await stopped(running)
        link = link_to(broker, session=2)
        running = asyncio.create_task(link.run())
        again = await next_of(link, Message)
        link.acknowledge(again)
        await stopped(running)
        return [again.payload]

    assert asyncio.run(story()) == [b"one"]


def test_it_starts_without_a_broker_and_connects_when_there_is_one(broker: Mosquitto) -> None:
    async def story() -> bool:
        link = link_to(broker)
        running = asyncio.create_task(link.run())
        await asyncio.sleep(0.2)
        assert not link.connected
        assert not link.publish(STATUS, b"x", qos=1, retain=False)
        broker.start()
        up = await next_of(link, LinkUp)
        await stopped(running)
        return up.session_present

    assert asyncio.run(story()) is False


def test_it_subscribes_again_when_the_broker_has_forgotten_everything(broker: Mosquitto) -> None:
    async def story() -> bytes:
        broker.start()
        link = link_to(broker)
        running = asyncio.create_task(link.run())
        await next_of(link, LinkUp)
        broker.kill()
        await next_of(link, LinkDown)
        broker.start()
        await next_of(link, LinkUp)
        peer = Peer(broker)
        peer.publish(WISHES, b"after", retain=True)
        message = await next_of(link, Message)
        peer.close()
        await stopped(running)
        return message.payload

    assert asyncio.run(story()) == b"after"


def test_a_killed_agent_is_announced_by_its_will(broker: Mosquitto, peer: Peer) -> None:
    async def story() -> None:
        link = link_to(broker)
        running = asyncio.create_task(link.run())
        await next_of(link, LinkUp)
        await until(lambda: peer.presences() == [True])
        client = link._client
        assert client is not None
        sock = client.socket()
        assert sock is not None
        sock.shutdown(socket.SHUT_RDWR)  # as the network sees a power cut
        await until(lambda: False in peer.presences())
        await stopped(running)

    asyncio.run(story())


def test_it_is_refused_with_a_next_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broker = Mosquitto(tmp_path)
    text = broker._config.read_text()
    broker._config.write_text(text.replace("allow_anonymous true", "allow_anonymous false"))
    broker.start()

    async def story() -> None:
        link = link_to(broker)
        running = asyncio.create_task(link.run())
        await until(lambda: "Next step: the device may have been revoked" in caplog.text)
        assert not link.connected
        await stopped(running)

    try:
        asyncio.run(story())
    finally:
        broker.kill()


def test_when_nobody_handles_messages_the_broker_keeps_them(
    broker: Mosquitto, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "INCOMING_MAX", 3)

    async def story() -> list[bytes]:
        link = link_to(broker)
        running = asyncio.create_task(link.run())
        await until(lambda: peer.presences() == [True])
        for number in range(6):
            peer.publish(WISHES, b"%d" % number)
        await until(lambda: link._connection > 1)  # it overflowed, and connected again
        await stopped(running)
        monkeypatch.setattr(mqtt, "INCOMING_MAX", 64)
        link = link_to(broker, session=2)
        running = asyncio.create_task(link.run())
        found = []
        while len(found) < 6:
            message = await next_of(link, Message)
            link.acknowledge(message)
            found.append(message.payload)
        await stopped(running)
        return found

    assert asyncio.run(story()) == [b"%d" % number for number in range(6)]


MALFORMED = {
    "a topic that is no UTF-8": bytes([0x30, 6, 0, 2, 0xFF, 0xFE, 0, 0x78]),
    "a topic longer than its packet": bytes([0x30, 3, 0xFF, 0xFF, 0x61]),
    "a property that does not exist": bytes([0x30, 5, 0, 1, 0x61, 1, 0x7F]),
    "a packet of no kind": bytes([0x00, 0]),
}


@pytest.mark.parametrize("packet", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_packet_that_cannot_be_read_makes_it_connect_again(packet: bytes) -> None:
    """paho's thread may fail on it; a link that did not notice would be deaf for good."""
    connections = 0

    async def hostile(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read(1024)
        writer.write(bytes([0x20, 3, 0, 0, 0]) + packet)  # CONNACK, and then this
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            await reader.read()
        writer.close()

    async def story() -> None:
        server = await asyncio.start_server(hostile, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        link = Link(
            Broker("127.0.0.1", port, None, 60, 0.01, 0.02),
            device="kiosk-1",
            session=1,
            status_topic=STATUS,
            subscriptions=[(WISHES, 1)],
            seal=lambda _kind, payload: payload,
            rng=random.Random(1),
        )
        running = asyncio.create_task(link.run())
        drain = asyncio.create_task(forever(link))
        await until(lambda: connections >= 3)
        await stopped(running)
        await stopped(drain)
        server.close()

    async def forever(link: Link) -> None:
        while True:
            await link.receive()

    asyncio.run(story())


def test_a_packet_above_the_maximum_is_not_read_but_told() -> None:
    """256 MiB is what MQTT lets a broker announce; nothing of it may be held."""
    problems: list[str] = []

    async def hostile(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        # CONNACK, then a PUBLISH of the largest length there is, and a first part of it.
        writer.write(bytes([0x20, 3, 0, 0, 0, 0x30, 0xFF, 0xFF, 0xFF, 0x7F]) + bytes(65_536))
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            await reader.read()
        writer.close()

    async def story() -> None:
        server = await asyncio.start_server(hostile, "127.0.0.1", 0)
        link = Link(
            Broker("127.0.0.1", server.sockets[0].getsockname()[1], None, 60, 0.01, 0.02),
            device="kiosk-1",
            session=1,
            status_topic=STATUS,
            subscriptions=[(WISHES, 1)],
            seal=lambda _kind, payload: payload,
            rng=random.Random(1),
        )
        running = asyncio.create_task(link.run())
        while not problems:
            down = await next_of(link, LinkDown)
            if down.problem is not None:
                problems.append(down.problem.code)
        await stopped(running)
        server.close()

    asyncio.run(story())

    assert problems == ["E-PACKET-TOO-LARGE"]
