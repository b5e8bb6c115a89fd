"""Against a real mosquitto: nothing is acknowledged before it is committed."""

import asyncio
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from enrolled_fleet import FLEET, EnrolledFleet
from mailboat_controller.mqtt import inbox
from mailboat_controller.mqtt import link as mqtt
from mailboat_controller.mqtt.inbox import Delivery
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.mqtt.link import Link
from mailboat_schemas.errors import NotPermitted, ServerUnavailable
from mailboat_schemas.topics import Channel, build
from plain_broker import Peer, PlainBroker, plain_broker

SUBMIT = build(Channel.SUBMIT, fleet=FLEET, pipeline="build")
MANIFEST = build(Channel.MANIFEST, fleet=FLEET, hardware_class="kiosk")
SECONDS = 60


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[PlainBroker]:
    with plain_broker(tmp_path) as broker:
        yield broker


@pytest.fixture(autouse=True)
def _quick_reconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "RECONNECT_SECONDS_MIN", 0.02)
    monkeypatch.setattr(mqtt, "RECONNECT_SECONDS_MAX", 0.1)


@asynccontextmanager
async def connected(port: int, connects: list[int] | None = None) -> AsyncIterator[Link]:
    link = Link(host="127.0.0.1", port=port, fleet=FLEET, tls=None, rng=random.Random(1))
    counted = [] if connects is None else connects
    task = asyncio.create_task(link.run(lambda: counted.append(1)))
    try:
        async with asyncio.timeout(SECONDS):
            await link.until_connected()
        yield link
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def receive(link: Link, count: int) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(SECONDS):
        while len(found) < count:
            found += await link.batch()
    return found


async def heard_by_the_broker(link: Link) -> None:
    """What was said before, which it confirms by confirming this: it reads in order."""
    await link.publish(MANIFEST, b"", qos=1, retain=False)


def payloads(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.message.payload for delivery in deliveries]


def test_messages_come_in_order_with_what_a_reply_needs(broker: PlainBroker) -> None:
    async def story() -> list[Delivery]:
        async with connected(broker.port) as link:
            peer = Peer(broker.port, "ci")
            for n in range(50):
                peer.publish(SUBMIT, b"%d" % n, response_topic="mb/1/x", correlation_data=b"%d" % n)
            found = await receive(link, 50)
            link.acknowledge(found)
            await asyncio.to_thread(peer.close)
            return found

    found = asyncio.run(story())

    assert payloads(found) == [b"%d" % n for n in range(50)]
    assert found[7].message.response_topic == "mb/1/x"
    assert found[7].message.correlation_data == b"7"


def test_what_was_not_acknowledged_comes_again_to_the_next_process(broker: PlainBroker) -> None:
    async def first() -> list[Delivery]:
        async with connected(broker.port) as link:
            peer = Peer(broker.port, "ci")
            for n in range(10):
                peer.publish(SUBMIT, b"%d" % n)
            found = await receive(link, 10)
            link.acknowledge(found[:4])
            await heard_by_the_broker(link)
            await asyncio.to_thread(peer.close)
            return found

    async def second() -> list[Delivery]:
        async with connected(broker.port) as link:
            return await receive(link, 6)

    asyncio.run(first())

    assert payloads(asyncio.run(second())) == [b"%d" % n for n in range(4, 10)]


def test_messages_sent_while_we_are_away_wait_for_us(broker: PlainBroker) -> None:
    async def once(count: int) -> list[bytes]:
        async with connected(broker.port) as link:
            found = await receive(link, count)
            link.acknowledge(found)
            await asyncio.sleep(0.1)
            return payloads(found)

    asyncio.run(once(0))
    peer = Peer(broker.port, "ci")
    peer.publish(SUBMIT, b"meanwhile")
    peer.close()

    assert asyncio.run(once(1)) == [b"meanwhile"]


def test_a_publish_is_done_when_the_broker_has_confirmed_it(broker: PlainBroker) -> None:
    async def story() -> None:
        async with connected(broker.port) as link:
            await link.publish(MANIFEST, b"signed", qos=1, retain=True)

    asyncio.run(story())
    peer = Peer(broker.port, "device", MANIFEST)
    peer.until(lambda: len(peer.heard) == 1)
    peer.close()

    assert (peer.heard[0].payload, peer.heard[0].retain) == (b"signed", True)


def test_many_publishes_at_once_are_all_confirmed(broker: PlainBroker) -> None:
    async def story() -> None:
        async with connected(broker.port) as link:
            await asyncio.gather(
                *(link.publish(MANIFEST, b"%d" % n, qos=1, retain=False) for n in range(500))
            )

    peer = Peer(broker.port, "device", MANIFEST)
    asyncio.run(story())
    peer.until(lambda: len(peer.heard) == 500)
    peer.close()

    assert [message.payload for message in peer.heard] == [b"%d" % n for n in range(500)]


def test_a_refused_publish_is_an_error_that_names_the_acl(tmp_path: Path) -> None:
    async def story(port: int) -> None:
        async with connected(port) as link:
            await link.publish("mb/1/demo/class/kiosk/manifest", b"x", qos=1, retain=True)

    with (
        plain_broker(tmp_path, acl="topic read #\n") as broker,
        pytest.raises(NotPermitted) as refused,
    ):
        asyncio.run(story(broker.port))

    assert "0x87" in refused.value.what
    assert "acl" in refused.value.next_step


def test_without_a_broker_a_publish_fails_at_once_and_the_link_waits(tmp_path: Path) -> None:
    async def story() -> None:
        link = Link(host="127.0.0.1", port=1, fleet=FLEET, tls=None, rng=random.Random(1))
        task = asyncio.create_task(link.run(lambda: None))
        await asyncio.sleep(0.3)
        assert not task.done()
        with pytest.raises(ServerUnavailable):
            await link.publish(MANIFEST, b"x", qos=1, retain=True)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(story())


def test_a_broker_that_lost_everything_is_subscribed_to_again(broker: PlainBroker) -> None:
    async def story() -> list[bytes]:
        connects: list[int] = []
        async with connected(broker.port, connects) as link:
            broker.kill()
            while link.connected:  # noqa: ASYNC110  a test may look
                await asyncio.sleep(0.01)
            with pytest.raises(ServerUnavailable):
                await link.publish(MANIFEST, b"x", qos=1, retain=True)
            await asyncio.to_thread(broker.start)
            async with asyncio.timeout(SECONDS):
                await link.until_connected()
            await asyncio.sleep(0.1)
            peer = await asyncio.to_thread(Peer, broker.port, "ci")
            await asyncio.to_thread(peer.publish, SUBMIT, b"after")
            found = await receive(link, 1)
            link.acknowledge(found)
            await asyncio.to_thread(peer.close)
            assert len(connects) == 2
            return payloads(found)

    assert asyncio.run(story()) == [b"after"]


def test_a_publish_that_is_not_confirmed_before_the_connection_ends_fails(
    broker: PlainBroker,
) -> None:
    async def story() -> None:
        async with connected(broker.port) as link:
            assert broker.process is not None
            broker.process.send_signal(19)  # SIGSTOP: takes the message, answers nothing
            waiting = asyncio.create_task(link.publish(MANIFEST, b"x", qos=1, retain=True))
            await asyncio.sleep(0.1)
            broker.kill()
            with pytest.raises(ServerUnavailable):
                await waiting

    asyncio.run(story())


def test_deliveries_of_a_lost_connection_are_not_acknowledged_on_the_next(
    broker: PlainBroker,
) -> None:
    async def story() -> None:
        async with connected(broker.port) as link:
            peer = Peer(broker.port, "ci")
            peer.publish(SUBMIT, b"one")
            old = await receive(link, 1)
            taker = Peer(broker.port, mqtt.CLIENT_ID)  # ends our session, packet ids and all
            while link.connections == 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.to_thread(taker.close)
            peer.publish(SUBMIT, b"two")
            (new,) = await receive(link, 1)
            assert new.mid == old[0].mid
            link.acknowledge(old)
            await heard_by_the_broker(link)
            await asyncio.to_thread(peer.close)

    async def next_process() -> list[bytes]:
        async with connected(broker.port) as link:
            return payloads(await receive(link, 1))

    asyncio.run(story())

    assert asyncio.run(next_process()) == [b"two"]


def test_a_full_inbox_stops_the_reading_and_loses_nothing(
    broker: PlainBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "INBOX_MESSAGES_MAX", 20)
    monkeypatch.setattr(inbox, "BATCH_MESSAGES_MAX", 7)

    async def story() -> list[bytes]:
        async with connected(broker.port) as link:
            peer = Peer(broker.port, "ci")
            for n in range(100):
                peer.publish(SUBMIT, b"%d" % n)
            async with asyncio.timeout(SECONDS):
                while len(link._inbox._waiting) < 20:  # noqa: ASYNC110  the reading stops then
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            assert len(link._inbox._waiting) == 20
            found: list[Delivery] = []
            while len(found) < 100:
                batch = await link.batch()
                assert len(batch) <= 7
                link.acknowledge(batch)
                found += batch
            await asyncio.to_thread(peer.close)
            return payloads(found)

    assert asyncio.run(story()) == [b"%d" % n for n in range(100)]


def test_large_messages_fill_the_inbox_by_their_bytes(
    broker: PlainBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "INBOX_BYTES_MAX", 5000)

    async def story() -> list[bytes]:
        async with connected(broker.port) as link:
            peer = Peer(broker.port, "ci")
            for n in range(20):
                peer.publish(SUBMIT, b"%04d" % n * 250)
            while len(link._inbox._waiting) < 5:  # noqa: ASYNC110  no event of ours says so
                await asyncio.sleep(0.01)
            found: list[Delivery] = []
            while len(found) < 20:
                assert len(link._inbox._waiting) <= 5
                batch = await link.batch()
                link.acknowledge(batch)
                found += batch
            await asyncio.to_thread(peer.close)
            return payloads(found)

    assert [content[:4] for content in asyncio.run(story())] == [b"%04d" % n for n in range(20)]


def test_large_messages_come_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their rows are one transaction, and other writers wait for it."""
    monkeypatch.setattr(inbox, "BATCH_BYTES_MAX", 1000)

    async def story() -> list[int]:
        waiting = inbox.Inbox(asyncio.get_running_loop())
        for size in (10, 10, 990, 10, 5000, 10):
            message = Incoming(topic="x", payload=b"x" * size)
            waiting.put(Delivery(message, None, 1, 1), lambda: True)
        found: list[int] = []
        while sum(found) < 6:
            found.append(len(await waiting.batch()))
        return found

    assert asyncio.run(story()) == [3, 2, 1]


def test_a_session_that_heard_everything_hears_only_what_it_is_told_to(broker: PlainBroker) -> None:
    """`mailboat serve` after partitions have been set: devices are somebody else's from then on."""
    hello = build(Channel.HELLO, fleet=FLEET, site="-", device="dev-1")

    async def story() -> list[bytes]:
        async with connected(broker.port):
            pass
        link = Link(
            host="127.0.0.1",
            port=broker.port,
            fleet=FLEET,
            tls=None,
            rng=random.Random(1),
            channels=(Channel.SUBMIT,),
        )
        task = asyncio.create_task(link.run(lambda: None))
        peer = Peer(broker.port, "dev-1")
        async with asyncio.timeout(SECONDS):
            await link.until_connected()
            heard: list[bytes] = []
            for n in range(1000):  # the broker takes a moment to forget the other subscriptions
                peer.publish(hello, b"not ours")
                peer.publish(SUBMIT, b"%d" % n)
                batch = await receive(link, 1)
                while payloads(batch)[-1] != b"%d" % n:
                    batch += await receive(link, 1)
                link.acknowledge(batch)
                heard = payloads(batch)
                if heard == [b"%d" % n]:
                    break
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await asyncio.to_thread(peer.close)
        return heard

    assert b"not ours" not in asyncio.run(story())


@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_stream_loses_nothing_and_doubles_nothing(
    tmp_path: Path, broker: PlainBroker
) -> None:
    rows = 300
    fleet = EnrolledFleet(tmp_path / "controller")
    device = fleet.enrol("dev-1")
    fleet.store.close()
    database = tmp_path / "controller" / "mailboat.db"
    consumer = [
        sys.executable,
        str(Path(__file__).parents[1] / "support" / "consuming_controller.py"),
        str(broker.port),
        str(database),
    ]
    first = subprocess.Popen(consumer, stdout=subprocess.PIPE)
    assert first.stdout is not None
    first.stdout.readline()  # connected and subscribed
    peer = Peer(broker.port, "dev-1", device.topic(Channel.ACK))
    for n in range(1, rows + 1):
        peer.publish(device.topic(Channel.EVENTS), device.numbered(n, n).payload)
        if n == rows // 3:
            peer.until(lambda: highest(database) > 0)
        if n == rows // 2:
            first.kill()
    first.wait()
    first.stdout.close()
    assert 0 < highest(database) < rows

    second = subprocess.Popen(consumer, stdout=subprocess.DEVNULL)
    try:
        peer.until(lambda: highest(database) == rows, 60)
    finally:
        second.kill()
        second.wait()
        peer.close()

    with sqlite3.connect(database) as connection:
        stored = [row[0] for row in connection.execute("SELECT sequence FROM events ORDER BY id")]
    connection.close()
    assert stored == list(range(1, rows + 1))


def highest(database: Path) -> int:
    time.sleep(0.05)
    connection = sqlite3.connect(database)
    found: int = connection.execute("SELECT coalesce(max(sequence), 0) FROM events").fetchone()[0]
    connection.close()
    return found
