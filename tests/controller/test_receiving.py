import asyncio
import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import structlog

from controller_core import Core, plan
from enrolled_fleet import FLEET
from mailboat_controller.ingest.batch import ingest
from mailboat_controller.ingest.flood import FloodGate, FloodLimits
from mailboat_controller.ingest.flood_telling import FLOODING_ACTION
from mailboat_controller.metrics.process_metrics import Metrics
from mailboat_controller.mqtt import receiving
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.mqtt.link import Link
from mailboat_controller.mqtt.receiving import UNEXPECTED_CODE, Receiver
from mailboat_controller.store import audit, events, quarantine
from mailboat_schemas.codec import decode
from mailboat_schemas.envelope import Envelope
from mailboat_schemas.errors import DiskFull
from mailboat_schemas.events import EventKind
from mailboat_schemas.reports import Ack
from mailboat_schemas.topics import Channel, build
from mailboat_schemas.tracing import trace_id
from plain_broker import Peer, plain_broker


class Counted:
    """Stands where a loop's `Wake` does; there is no loop here."""

    def __init__(self) -> None:
        self.times = 0

    def set(self) -> None:
        self.times += 1


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    core = Core(tmp_path)
    yield core
    core.store.close()


def receiver(core: Core, gate: FloodGate | None = None) -> Receiver:
    return Receiver(
        store=core.store,
        admission=core.admission,
        fleet=FLEET,
        metrics=Metrics(core.store, dict),
        changed=Counted(),  # type: ignore[arg-type]
        queued=Counted(),  # type: ignore[arg-type]
        sign_ack=core.reconciler.sign_ack,
        now=lambda: core.now,
        gate=gate,
    )


def stored(core: Core) -> list[int]:
    with core.store.read() as tx:
        return [row.sequence for row in events.page(tx)]


def test_events_and_a_submission_of_one_batch_are_both_taken(core: Core) -> None:
    device = core.fleet.enrol("dev-1")
    core.trust.release("1.0.0", plan("first"))
    topic = build(Channel.SUBMIT, fleet=FLEET, pipeline="build")
    submission = Incoming(topic=topic, payload=core.submission("release-vad", "approval-vad"))

    (result,) = receiver(core).take([device.numbered(1, 2), submission])

    assert result.submissions == (submission,)
    assert stored(core) == [1, 2]
    assert core.rollout("first").waves_open == 1


def test_a_failure_is_logged_with_its_trace_once_it_is_committed(core: Core) -> None:
    device = core.fleet.enrol("dev-1")
    digest = core.release("1.0.0", plan("first"))
    failed = device.tells(1, EventKind.TRIAL_FAILED, digest=digest, version="1.0.0")

    with structlog.testing.capture_logs() as said:
        receiver(core).take([failed])

    (line,) = [line for line in said if line["event"] == "devices failed a release"]
    assert (line["trace_id"], line["events"]) == (trace_id(digest), 1)


def test_one_message_that_breaks_us_is_set_aside_and_the_others_are_taken(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = core.fleet.enrol("dev-1")
    bad = Incoming(topic="breaks/us", payload=b"")
    real = ingest

    def fragile(tx: object, messages: list[Incoming], **more: object) -> object:
        if bad in messages:
            raise ZeroDivisionError
        return real(tx, messages, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(receiving, "ingest", fragile)

    receiver(core).take([device.numbered(1, 1), bad, device.numbered(2, 2)])

    assert stored(core) == [1, 2]
    with core.store.read() as tx:
        assert [row["code"] for row in quarantine.page(tx)] == [UNEXPECTED_CODE]


def test_a_device_that_floods_is_not_heard_and_the_broker_is_rid_of_its_messages(
    core: Core, tmp_path: Path
) -> None:
    """Through a real broker. The other device's messages stand between those of the flood."""
    loud, quiet = core.fleet.enrol("dev-1"), core.fleet.enrol("dev-2")
    limits = FloodLimits(messages_per_second=0.001, messages_burst=5)

    async def story(port: int) -> tuple[int, int]:
        taker = receiver(core, gate=FloodGate(limits))
        link = Link(host="127.0.0.1", port=port, fleet=FLEET, tls=None, rng=random.Random(1))
        tasks = [asyncio.create_task(link.run(lambda: None))]
        await link.until_connected()
        tasks.append(asyncio.create_task(taker.run(link)))
        peer = Peer(port, "devices")
        for n in range(1, 21):
            for device in (loud, quiet) if n <= 5 else (loud,):
                message = device.numbered(n, n)
                peer.publish(message.topic, message.payload)
        message = core.fleet.enrol("dev-3").numbered(1, 1)  # the last one that the broker has
        peer.publish(message.topic, message.payload)
        await asyncio.to_thread(peer.until, lambda: len(stored(core)) == 11)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(peer.close)
        with core.store.read() as tx:
            rows = events.page(tx)
        return tuple(sum(row.device == d.name for row in rows) for d in (loud, quiet))  # type: ignore[return-value]

    with plain_broker(tmp_path) as broker:
        assert asyncio.run(story(broker.port)) == (5, 5)
    with core.store.read() as tx:
        assert [row.subject for row in audit.page(tx) if row.action == FLOODING_ACTION] == ["dev-1"]


def test_the_last_will_of_a_device_that_flooded_is_taken_though_nobody_says_anything_more(
    core: Core, tmp_path: Path
) -> None:
    loud = core.fleet.enrol("dev-1")
    gate = FloodGate(FloodLimits(messages_per_second=1, messages_burst=2))

    async def story(port: int) -> None:
        link = Link(host="127.0.0.1", port=port, fleet=FLEET, tls=None, rng=random.Random(1))
        tasks = [asyncio.create_task(link.run(lambda: None))]
        await link.until_connected()
        tasks.append(asyncio.create_task(receiver(core, gate=gate).run(link)))
        peer = Peer(port, "devices")
        for message in (loud.numbered(1, 1), loud.numbered(2, 2), loud.presence(1, online=False)):
            peer.publish(message.topic, message.payload)
        await asyncio.to_thread(peer.until, lambda: gate.waiting)
        core.now += timedelta(minutes=1)
        await asyncio.to_thread(peer.until, lambda: core.fleet.row(loud).online is False)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(peer.close)

    with plain_broker(tmp_path) as broker:
        asyncio.run(story(broker.port))


def test_the_broker_keeps_a_batch_until_it_is_committed_and_forgets_it_then(
    core: Core, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, tries = core.fleet.enrol("dev-1"), []

    def full(*_args: object, **_more: object) -> object:
        tries.append(1)
        raise DiskFull("The disk is full.", next_step="free space.")

    async def taking(port: int, peer: Peer, until: Callable[[], bool]) -> None:
        """A process of its own, until it is so; it ends when the broker has read all it said."""
        link = Link(host="127.0.0.1", port=port, fleet=FLEET, tls=None, rng=random.Random(1))
        tasks = [asyncio.create_task(link.run(lambda: None))]
        await link.until_connected()
        tasks.append(asyncio.create_task(receiver(core).run(link)))
        await asyncio.to_thread(peer.until, until)
        await link.publish("mb/1/demo/end", b"", qos=1, retain=False)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def found_there(port: int, peer: Peer) -> list[bytes]:
        """What comes to a process that takes nothing, up to a message that is sent to it."""
        link = Link(host="127.0.0.1", port=port, fleet=FLEET, tls=None, rng=random.Random(1))
        task = asyncio.create_task(link.run(lambda: None))
        await link.until_connected()
        await asyncio.to_thread(peer.publish, device.topic(Channel.HELLO), b"the last")
        found: list[bytes] = []
        while b"the last" not in found:
            found += [each.message.payload for each in await link.batch()]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return found

    async def story(port: int) -> None:
        peer = Peer(port, "devices")
        with monkeypatch.context() as disk:
            disk.setattr(receiving, "ingest", full)
            link = Link(host="127.0.0.1", port=port, fleet=FLEET, tls=None, rng=random.Random(1))
            absent = asyncio.create_task(link.run(lambda: None))
            await link.until_connected()  # the session is there from here on
            absent.cancel()
            await asyncio.gather(absent, return_exceptions=True)
            message = device.numbered(1, 3)
            await asyncio.to_thread(peer.publish, message.topic, message.payload)
            await taking(port, peer, lambda: bool(tries))
        await taking(port, peer, lambda: stored(core) == [1, 2, 3])
        assert await found_there(port, peer) == [b"the last"]
        await asyncio.to_thread(peer.close)

    with plain_broker(tmp_path) as broker:
        asyncio.run(asyncio.wait_for(story(broker.port), 120))


@pytest.mark.slow
def test_what_a_full_queue_at_the_broker_drops_is_sent_again(core: Core, tmp_path: Path) -> None:
    """mosquitto confirms what it drops. Nobody takes messages in while 60 events come; 20 fit."""
    device, total = core.fleet.enrol("dev-1"), 60

    async def story(port: int) -> None:
        link = Link(host="127.0.0.1", port=port, fleet=FLEET, tls=None, rng=random.Random(1))
        absent = asyncio.create_task(link.run(lambda: None))
        await link.until_connected()  # the session is there from here on
        absent.cancel()
        await asyncio.gather(absent, return_exceptions=True)
        peer = Peer(port, "dev-1", device.topic(Channel.ACK))
        for n in range(1, total + 1):
            message = device.numbered(n, n)
            await asyncio.to_thread(peer.publish, message.topic, message.payload)
        link = Link(host="127.0.0.1", port=port, fleet=FLEET, tls=None, rng=random.Random(1))
        tasks = [
            asyncio.create_task(link.run(lambda: None)),
            asyncio.create_task(receiver(core).run(link)),
        ]
        await asyncio.to_thread(peer.until, lambda: len(stored(core)) > 0)
        while len(stored(core)) < total:  # as an outbox: ask, then go on from the answer
            answered = len(peer.heard)
            message = device.hello(1, total)
            await asyncio.to_thread(peer.publish, message.topic, message.payload)
            await asyncio.to_thread(peer.until, lambda n=answered: len(peer.heard) > n)
            ack = decode(Ack, decode(Envelope, bytes(peer.heard[-1].payload)).payload)
            message = device.numbered(ack.events_acked + 1, min(ack.events_acked + 10, total))
            await asyncio.to_thread(peer.publish, message.topic, message.payload)
            await asyncio.to_thread(peer.until, lambda n=answered: len(peer.heard) > n + 1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(peer.close)

    with plain_broker(tmp_path, queued_messages_max=20) as broker:
        asyncio.run(asyncio.wait_for(story(broker.port), 120))
    assert stored(core) == list(range(1, total + 1))


def test_a_full_disk_is_no_reason_to_set_anything_aside(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_more: object) -> object:
        raise DiskFull("The disk is full.", next_step="free space.")

    monkeypatch.setattr(receiving, "ingest", full)

    with pytest.raises(DiskFull):
        receiver(core).take([Incoming(topic="x", payload=b"")])
    with core.store.read() as tx:
        assert quarantine.count(tx) == 0
