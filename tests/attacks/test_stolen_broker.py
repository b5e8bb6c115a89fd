"""A broker that lies, to a real controller that listens through it: forged health, forged absence.

A broker can withhold and repeat what devices say. It must not be able to speak for them.
"""

import asyncio
import contextlib
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric import ec

from attack_broker import StolenBroker, stolen_broker
from attack_siege import Siege
from enrolled_fleet import FLEET, EnrolledDevice
from mailboat_agent.device_orders import DeviceOrders
from mailboat_agent.journal.outbox import HEARD_SPREAD_SECONDS, Outbox
from mailboat_agent.link import manifest_poll
from mailboat_agent.link.acknowledgement import FORGED_BEFORE_TOLD, AckReader
from mailboat_agent.link.correspondence import Correspondence, subscriptions, topic_of
from mailboat_agent.link.manifest_poll import ManifestPoll
from mailboat_agent.link.mqtt import Broker, Link, Message
from mailboat_agent.logs.answers import LogAnswers
from mailboat_agent.logs.ring import LogRing
from mailboat_agent.site_orders import SiteOrders
from mailboat_agent.trust.manifest import Counter
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.store import devices
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.desired import Assignment, ManifestBundle
from mailboat_schemas.device_orders import DRILLS_MAX, DeviceDesired, Drill, Hold
from mailboat_schemas.documents.failure_mode import FailureMode
from mailboat_schemas.envelope import Envelope, PayloadType, sign_as_device
from mailboat_schemas.events import EventKind
from mailboat_schemas.reports import Ack, Hello, Presence, Span
from mailboat_schemas.topics import TOPICS, Channel, build
from model_fleet import CLASS, DEVICE, MODEL, ModelFleet

FROM_DEVICES = (
    Channel.EVENTS,
    Channel.TELEMETRY,
    Channel.HELLO,
    Channel.REPORT,
    Channel.STATUS,
)
_numbers = count(1)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StolenBroker]:
    with stolen_broker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
def device(broker: StolenBroker) -> EnrolledDevice:
    return broker.enrol(f"dev-{next(_numbers)}")


def digest() -> str:
    """Of a release that no other test speaks of."""
    return f"{next(_numbers):064x}"


def forged(device: EnrolledDevice) -> EnrolledDevice:
    """The same name under another key."""
    return replace(device, key=ec.generate_private_key(ec.SECP256R1()))


# --- health that nobody reported -----------------------------------------------------------------


def test_forged_health_to_promote_a_release(broker: StolenBroker, device: EnrolledDevice) -> None:
    bad = digest()
    lie = forged(device).tells(1, EventKind.COMMITTED, digest=bad)
    broker.says(lie)
    broker.assert_set_aside(lie.topic, "E-SIGNATURE")
    broker.hears_from(device, 1, 1)
    assert broker.verdicts(device, bad) == []


def test_forged_failure_to_halt_a_release(broker: StolenBroker, device: EnrolledDevice) -> None:
    good = digest()
    lie = forged(device).tells(1, EventKind.ROLLED_BACK, digest=good)
    broker.says(lie)
    broker.assert_set_aside(lie.topic, "E-SIGNATURE")
    assert broker.verdicts(device, good) == []


def test_one_devices_good_news_told_in_the_name_of_another(
    broker: StolenBroker, device: EnrolledDevice
) -> None:
    victim, about = broker.enrol(f"victim-{next(_numbers)}"), digest()
    news = device.tells(1, EventKind.COMMITTED, digest=about)
    broker.says(Incoming(topic=victim.topic(Channel.EVENTS), payload=news.payload))
    broker.assert_set_aside(victim.topic(Channel.EVENTS), "E-SIGNATURE")
    assert broker.verdicts(victim, about) == []


def test_a_device_that_speaks_for_another_in_its_own_message(
    broker: StolenBroker, device: EnrolledDevice
) -> None:
    victim = broker.enrol(f"victim-{next(_numbers)}")
    lie = device.events([device.event(1)], of=victim.name)
    broker.says(lie)
    broker.assert_set_aside(lie.topic, "E-TOPIC-MISMATCH")
    assert broker.stored(victim) == []


def test_events_repeated_a_hundred_times(broker: StolenBroker, device: EnrolledDevice) -> None:
    about = digest()
    told = device.tells(1, EventKind.COMMITTED, digest=about)
    for _ in range(100):
        broker.says(told)
    broker.hears_from(device, 2, 2)
    assert broker.stored(device) == [1, 2]
    assert broker.verdicts(device, about) == ["ok"]


def test_events_with_one_left_out(broker: StolenBroker, device: EnrolledDevice) -> None:
    """A hole is asked for, never passed over."""
    broker.says(device.numbered(2, 3))
    broker.hears_from(device, 1, 1)
    assert broker.stored(device) == [1]


def test_one_kind_of_a_devices_messages_passed_off_as_another(
    broker: StolenBroker, device: EnrolledDevice
) -> None:
    report = device.report()
    broker.says(Incoming(topic=device.topic(Channel.EVENTS), payload=report.payload))
    broker.assert_set_aside(device.topic(Channel.EVENTS), "E-SIGNATURE")


def test_a_forged_report_of_what_runs(broker: StolenBroker, device: EnrolledDevice) -> None:
    lie = forged(device).report(session=9, manifest_counter=99)
    broker.says(lie, retain=True)
    broker.assert_set_aside(lie.topic, "E-SIGNATURE")
    assert broker.fleet.row(device).report is None


def test_a_report_of_a_device_in_a_class_it_is_not_of(
    broker: StolenBroker, device: EnrolledDevice
) -> None:
    lie = device.report(hardware_class="camera-arm")
    broker.says(lie)
    broker.assert_set_aside(lie.topic, "E-TOPIC-MISMATCH")


def test_forged_telemetry(broker: StolenBroker, device: EnrolledDevice) -> None:
    lie = forged(device).telemetry(1, 3)
    broker.says(lie)
    broker.assert_set_aside(lie.topic, "E-SIGNATURE")


def test_a_forged_hello_that_would_pass_over_events(
    broker: StolenBroker, device: EnrolledDevice
) -> None:
    """A hello says where the outbox begins: what lies before it counts as lost."""
    hello = Hello(
        device=device.name,
        epoch=device.epoch,
        events=Span(first=1000, last=1000),
        telemetry=Span(first=1, last=0),
    )
    other = forged(device)
    lie = Incoming(
        topic=device.topic(Channel.HELLO), payload=other.sealed(PayloadType.HELLO, hello)
    )
    broker.says(lie)
    broker.assert_set_aside(lie.topic, "E-SIGNATURE")
    broker.hears_from(device, 1, 1)


# --- presence ------------------------------------------------------------------------------------


def test_a_late_last_will_of_an_older_session(broker: StolenBroker, device: EnrolledDevice) -> None:
    broker.says(device.presence(7, online=True))
    broker.says(device.presence(6, online=False))
    broker.hears_from(device, 1, 1)
    row = broker.fleet.row(device)
    assert (row.session, row.online) == (7, True)


def test_a_forged_last_will(broker: StolenBroker, device: EnrolledDevice) -> None:
    broker.says(device.presence(7, online=True))
    lie = forged(device).presence(8, online=False)
    broker.says(lie, retain=True)
    broker.assert_set_aside(lie.topic, "E-SIGNATURE")
    assert broker.fleet.row(device).online is True


def test_an_unsigned_birth(broker: StolenBroker, device: EnrolledDevice) -> None:
    bare = encode(Presence(device=device.name, session=1 << 40, online=True))
    broker.says(Incoming(topic=device.topic(Channel.STATUS), payload=bare))
    broker.assert_set_aside(device.topic(Channel.STATUS), "E-PAYLOAD-MALFORMED")
    assert broker.fleet.row(device).session < 1 << 40


# --- strangers -----------------------------------------------------------------------------------


def test_a_device_nobody_enrolled(broker: StolenBroker) -> None:
    stranger = EnrolledDevice(f"stranger-{next(_numbers)}")
    broker.says(stranger.numbered(1, 1))
    broker.assert_set_aside(stranger.topic(Channel.EVENTS), "E-NOT-PERMITTED")


def test_a_revoked_device_that_still_reaches_the_broker(
    broker: StolenBroker, device: EnrolledDevice
) -> None:
    with broker.fleet.store.transaction() as tx:
        devices.revoke(tx, device.name)
    broker.says(device.numbered(1, 1))
    broker.assert_set_aside(device.topic(Channel.EVENTS), "E-NOT-PERMITTED")
    assert broker.stored(device) == []


def test_a_device_that_speaks_from_another_site(
    broker: StolenBroker, device: EnrolledDevice
) -> None:
    elsewhere = replace(device, site="elsewhere").numbered(1, 1)
    broker.says(elsewhere)
    broker.assert_set_aside(elsewhere.topic, "E-TOPIC-MISMATCH")


# --- too much, and nothing -----------------------------------------------------------------------


@pytest.mark.parametrize("channel", FROM_DEVICES)
def test_garbage_on_every_topic_of_a_device(
    broker: StolenBroker, device: EnrolledDevice, channel: Channel
) -> None:
    broker.says(Incoming(topic=device.topic(channel), payload=b"\xc1 garbage"))
    broker.assert_set_aside(device.topic(channel), "E-PAYLOAD-MALFORMED")


@pytest.mark.parametrize("channel", FROM_DEVICES)
def test_too_much_on_every_topic_of_a_device(
    broker: StolenBroker, device: EnrolledDevice, channel: Channel
) -> None:
    huge = bytes(TOPICS[channel].payload_bytes_max + 1)
    broker.says(Incoming(topic=device.topic(channel), payload=huge))
    broker.assert_set_aside(device.topic(channel), "E-PAYLOAD-TOO-LARGE")


def test_a_decompression_bomb_from_a_device(broker: StolenBroker, device: EnrolledDevice) -> None:
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 28))
    broker.says(Incoming(topic=device.topic(Channel.EVENTS), payload=bomb[: 120 * 1024]))
    broker.assert_set_aside(device.topic(Channel.EVENTS), "E-PAYLOAD-TOO-LARGE")


def test_a_decompression_bomb_that_the_device_has_signed(
    broker: StolenBroker, device: EnrolledDevice
) -> None:
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 27))
    sealed = sign_as_device(PayloadType.EVENT_BATCH, bomb, device.key, device.name)
    broker.says(Incoming(topic=device.topic(Channel.EVENTS), payload=encode(sealed)))
    broker.assert_set_aside(device.topic(Channel.EVENTS), "E-PAYLOAD-TOO-LARGE")


def test_garbage_as_a_submission(broker: StolenBroker, device: EnrolledDevice) -> None:
    topic = build(Channel.SUBMIT, fleet=FLEET, pipeline="build")
    broker.says(Incoming(topic=topic, payload=b"\xc1 garbage"))
    broker.hears_from(device, 1, 1)
    assert broker.controller.poll() is None


# --- towards the device --------------------------------------------------------------------------


def post_of(siege: Siege, broker: Broker | None = None) -> tuple[Correspondence, Link]:
    """The agent's own post, by default without a network around it."""
    box = siege.box

    def seal(kind: str, content: bytes) -> bytes:
        return encode(sign_as_device(kind, content, box.device_key, DEVICE))

    link = Link(
        broker or Broker(host="127.0.0.1", port=1, tls=None),
        device=DEVICE,
        session=1,
        status_topic=topic_of(Channel.STATUS, box.device),
        subscriptions=subscriptions(box.device),
        seal=seal,
        rng=random.Random(1),
    )
    acks = AckReader(device=DEVICE, manifest=box.manifest, ledger=box.ledger)
    post = Correspondence(
        device=box.device,
        link=link,
        outbox=Outbox(DEVICE, box.journal, seal, random.Random(1)),
        reporter=None,  # type: ignore[arg-type]  # nothing is sent here
        reconciler=box.reconciler,
        acks=acks,
        ledger=box.ledger,
        report_seconds_min=1.0,
        log_answers=LogAnswers(DEVICE, LogRing(box.directory / "logs", 0), seal),
        orders=DeviceOrders(
            box.directory,
            box.device,
            acks,
            box.manifest,
            SiteOrders(box.directory, box.device, box.manifest, box.ledger),
        ),
    )
    return post, link


def brings(siege: Siege, topic: str, *payloads: bytes) -> None:
    """The broker delivers these."""
    post, _ = post_of(siege)
    deliver(siege, post, topic, *payloads)


def deliver(siege: Siege, post: Correspondence, topic: str, *payloads: bytes) -> None:
    for mid, payload in enumerate(payloads, start=1):
        message = Message(topic=topic, payload=payload, retain=False, qos=1, mid=mid, connection=1)
        post.handle(message, siege.box.now(), 0.0)


def own(siege: Siege, channel: Channel) -> str:
    return topic_of(channel, siege.box.device)


def ack(siege: Siege, *, device: str = DEVICE) -> Ack:
    """Everything has arrived, it says."""
    last = siege.box.events()[-1].sequence
    return Ack(device=device, epoch=siege.box.journal.epoch, events_acked=last, telemetry_acked=0)


async def test_forged_acknowledgements_to_make_a_device_forget(
    siege: Siege, stranger: ModelFleet
) -> None:
    before = siege.box.events()
    forged = stranger.online.sign_ack(ack(siege))
    brings(siege, own(siege, Channel.ACK), *[forged] * FORGED_BEFORE_TOLD)
    assert siege.box.events()[: len(before)] == before
    await siege.assert_refused("E-ACK-FORGED")


@pytest.mark.slow
async def test_an_unsigned_acknowledgement(siege: Siege) -> None:
    before = siege.box.events()
    brings(siege, own(siege, Channel.ACK), encode(ack(siege)))
    assert siege.box.events()[: len(before)] == before
    await siege.assert_refused("E-PAYLOAD-MALFORMED")


@pytest.mark.slow
async def test_an_acknowledgement_for_another_device(siege: Siege) -> None:
    before = siege.box.events()
    genuine = siege.fleet.online.sign_ack(ack(siege, device="kiosk-2"))
    brings(siege, own(siege, Channel.ACK), genuine)
    assert siege.box.events()[: len(before)] == before
    await siege.assert_refused("E-TOPIC-MISMATCH")


@pytest.mark.parametrize(
    ("channel", "is_for_all"),
    [(Channel.ACK, False), (Channel.MANIFEST, True), (Channel.FRESH, True)],
)
async def test_what_comes_for_all_lets_a_device_ask_soon_and_nothing_more(
    siege: Siege, channel: Channel, *, is_for_all: bool
) -> None:
    """Whoever keeps a broker may send anything; it costs a question to the controller."""
    post, _ = post_of(siege)
    outbox = post._outbox
    outbox.on_connected(0.0)
    assert len(outbox.due(0.0)) == 1
    outbox._hello_due_at = 800.0

    deliver(siege, post, own(siege, channel), b"garbage")

    assert (outbox._hello_due_at <= HEARD_SPREAD_SECONDS) is is_for_all
    assert outbox.due(0.0) == []


async def test_a_message_on_another_devices_topic(siege: Siege) -> None:
    genuine = siege.fleet.online.sign_ack(ack(siege))
    brings(siege, own(siege, Channel.ACK).replace(DEVICE, "kiosk-2"), genuine)
    await siege.assert_refused("E-TOPIC-MISMATCH")


@pytest.mark.slow
async def test_a_message_on_a_topic_of_nobody(siege: Siege) -> None:
    brings(siege, "$SYS/../mb/1/demo/class/#/manifest", siege.bundle)
    await siege.assert_refused("E-TOPIC-MISMATCH")


@pytest.mark.slow
async def test_too_much_on_the_topic_of_acknowledgements(siege: Siege) -> None:
    brings(siege, own(siege, Channel.ACK), bytes(Envelope.wire_bytes_max + 1))
    await siege.assert_refused("E-PAYLOAD-TOO-LARGE")


async def test_an_order_to_drill_in_the_directors_name(siege: Siege) -> None:
    """Whoever has the director's key asks for all that an order has room for, again and again."""
    drills = tuple(
        Drill(order=f"{number:016x}", by="operator:eve", reason="", expires=2**40)
        for number in range(DRILLS_MAX)
    )
    before = siege.box.runtime.worker_pid(MODEL)
    post, _ = post_of(siege)
    for counter in (1, 2):
        order = DeviceDesired(fleet="demo", device=DEVICE, counter=counter, issued=0, drills=drills)
        deliver(siege, post, own(siege, Channel.DESIRED), siege.fleet.online.sign_order(order))
        await siege.box.until(
            lambda: sum(each.kind.startswith("drill_") for each in siege.box.events()) == DRILLS_MAX
        )
        await siege.box.step()
        assert not siege.box.reconciler.drills.running
    assert siege.box.runtime.worker_pid(MODEL) == before
    await siege.assert_serves()


async def test_a_forged_order_on_a_devices_own_topic(siege: Siege, stranger: ModelFleet) -> None:
    order = decode(ManifestBundle, stranger.current(siege.current)).desired
    brings(siege, own(siege, Channel.DESIRED), order)
    await siege.assert_refused("E-SIGNATURE")


@pytest.mark.slow
async def test_a_manifest_passed_off_as_an_order_for_one_device(siege: Siege) -> None:
    brings(siege, own(siege, Channel.DESIRED), decode(ManifestBundle, siege.bundle).desired)
    await siege.assert_refused("E-SIGNATURE")


def held(siege: Siege, counter: int, device: str = DEVICE, *, holds: bool = True) -> bytes:
    hold = Hold(by="operator:ana", reason="an exhibition", expires=2**40)
    order = DeviceDesired(
        fleet="demo", device=device, counter=counter, issued=0, holds=(hold,) if holds else ()
    )
    return siege.fleet.online.sign_order(order)


async def test_a_genuine_order_for_another_device(siege: Siege) -> None:
    brings(siege, own(siege, Channel.DESIRED), held(siege, 1, "kiosk-2"))
    await siege.assert_refused("E-TOPIC-MISMATCH")


@pytest.mark.slow
async def test_an_old_order_again_does_not_hold_a_device_anew(siege: Siege) -> None:
    before, after = held(siege, 1), held(siege, 2, holds=False)
    post, _ = post_of(siege)
    topic = own(siege, Channel.DESIRED)

    deliver(siege, post, topic, before)
    assert siege.box.device.order_notes(siege.box.now()) == ["held"]
    deliver(siege, post, topic, after, before)
    assert siege.box.device.order_notes(siege.box.now()) == []


async def test_bytes_that_meet_a_bug_in_the_agent(
    siege: Siege, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is always one more; retained, it would end the agent again after every start."""

    def bug(*_: object) -> None:
        raise RuntimeError("nobody thought of that")

    monkeypatch.setattr(AckReader, "read", bug)
    brings(siege, own(siege, Channel.ACK), b"the right bytes")
    await siege.assert_refused("E-UNFORESEEN")


async def test_a_packet_of_a_quarter_of_a_gigabyte(siege: Siege) -> None:
    """What MQTT lets a broker announce; nothing of it is held."""

    async def hostile(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        # CONNACK, then a PUBLISH of the largest length there is, and a first part of it.
        writer.write(bytes([0x20, 3, 0, 0, 0, 0x30, 0xFF, 0xFF, 0xFF, 0x7F]) + bytes(65_536))
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            await reader.read()
        writer.close()

    server = await asyncio.start_server(hostile, "127.0.0.1", 0)
    post, link = post_of(siege, Broker("127.0.0.1", server.sockets[0].getsockname()[1], None))
    running = asyncio.create_task(link.run())
    while not siege.alarms():
        post.handle(await asyncio.wait_for(link.receive(), 60), siege.box.now(), 0.0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    server.close()
    await siege.assert_refused("E-PACKET-TOO-LARGE")


@pytest.mark.slow
async def test_a_manifest_withheld_while_acknowledgements_are_forwarded(
    siege: Siege, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device learns from them that there is a newer one, and fetches it over HTTPS."""
    monkeypatch.setattr(manifest_poll, "BEHIND_SECONDS", 0.05)
    box, fleet = siege.box, siege.fleet
    fleet.withdraw(siege.current.version)
    siege.server.manifest = fleet.bundle(Assignment(model=MODEL))
    box.device.failure_mode = FailureMode.FAIL_CLOSED
    post, _ = post_of(siege)
    poll = ManifestPoll(
        fetch=lambda etag: box.source.get_manifest(CLASS, etag),
        take=box.take,
        quiet_since=lambda: 0.0,  # the broker speaks all the time
        held=lambda: Counter(box.ledger.state.manifest_counter, box.ledger.state.director_keyid),
        interval_seconds=3600,
        check_seconds=3600,
        monotonic=lambda: 0.0,
        rng=random.Random(1),
    )
    post.named_manifest = poll.heard_of
    polling = asyncio.create_task(poll.run())
    await asyncio.sleep(0.2)
    assert siege.server.requests == []

    forwarded = ack(siege).model_copy(update={"events_acked": 0, "manifest_counter": fleet.counter})
    deliver(siege, post, own(siege, Channel.ACK), fleet.online.sign_ack(forwarded))
    await box.until(lambda: box.serving is None and box.state.phase == "absent")
    polling.cancel()
    await asyncio.gather(polling, return_exceptions=True)
    assert box.ledger.state.manifest_counter == fleet.counter
    assert box.told()[-1] == f"nothing_to_serve {siege.current.version}"


# --- and it is heard of --------------------------------------------------------------------------


@pytest.mark.slow
async def test_what_a_device_refused_is_told_to_its_controller(
    siege: Siege, broker: StolenBroker, stranger: ModelFleet
) -> None:
    """Through the device's own outbox, signed with its key, over the very broker that lies."""
    enrolled = broker.enrol(f"kiosk-{next(_numbers)}")
    await siege.offer(stranger.current(siege.current))
    await siege.assert_refused("E-SIGNATURE")

    def seal(kind: str, payload: bytes) -> bytes:
        return encode(sign_as_device(kind, payload, enrolled.key, enrolled.name))

    outbox = Outbox(enrolled.name, siege.box.journal, seal, random.Random(1))
    outbox.on_connected(0.0)
    for item in outbox.due(0.0):
        broker.says(Incoming(topic=enrolled.topic(item.channel), payload=item.payload))
    hello_answered = Ack(
        device=enrolled.name, epoch=siege.box.journal.epoch, events_acked=0, telemetry_acked=0
    )
    outbox.on_ack(hello_answered, 0.1)
    for item in outbox.due(0.1):
        broker.says(Incoming(topic=enrolled.topic(item.channel), payload=item.payload))
    last = siege.box.events()[-1].sequence
    broker.until(lambda: last in broker.stored(enrolled), lambda: str(broker.stored(enrolled)))
    assert ("manifest_refused", "E-SIGNATURE") in broker.told(enrolled)
