"""What a broker says before anything was verified: bounded, whatever names it invents."""

import pytest

from enrolled_fleet import CLASS, FLEET
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.recovery import hearsay
from mailboat_controller.recovery.hearsay import Hearsay
from mailboat_schemas.codec import encode
from mailboat_schemas.desired import FreshTimestamp, ManifestBundle
from mailboat_schemas.envelope import Envelope, EnvelopeSignature, PayloadType
from mailboat_schemas.topics import Channel, build


def manifest(hardware_class: str, size: int = 10) -> Incoming:
    bundle = ManifestBundle(
        fleet=FLEET,
        hardware_class=hardware_class,
        counter=1,
        trust={"targets.json": b"x" * size},
        documents={},
        desired=b"x",
    )
    topic = build(Channel.MANIFEST, fleet=FLEET, hardware_class=hardware_class)
    return Incoming(topic=topic, payload=encode(bundle), retain=True)


def fresh(hardware_class: str) -> Incoming:
    content = FreshTimestamp(fleet=FLEET, hardware_class=hardware_class, timestamp=b"x")
    topic = build(Channel.FRESH, fleet=FLEET, hardware_class=hardware_class)
    return Incoming(topic=topic, payload=encode(content), retain=True)


def order(device: str) -> Incoming:
    content = Envelope(
        payload_type=PayloadType.DEVICE_DESIRED,
        payload=b"x",
        signatures=(EnvelopeSignature(keyid="a" * 64, sig=b"x"),),
    )
    topic = build(Channel.DESIRED, fleet=FLEET, site="-", device=device)
    return Incoming(topic=topic, payload=encode(content), retain=True)


def test_invented_classes_take_no_more_than_their_room_and_no_place_from_known_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hearsay, "STRANGE_CLASSES_BYTES_MAX", 3 * hearsay.STRANGE_BYTES_EACH)
    heard = Hearsay(FLEET, classes=frozenset({CLASS}))

    for number in range(10):
        heard.take(manifest(f"invented-{number}"))
        heard.take(fresh(f"invented-{number}"))
    heard.take(manifest(CLASS))
    heard.take(fresh(CLASS))

    assert len(heard.bundles) + len(heard.timestamps) == 3 + 2
    assert CLASS in heard.bundles.keys() & heard.timestamps.keys()


def test_a_message_counts_with_what_it_unpacks_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearsay, "STRANGE_CLASSES_BYTES_MAX", 100_000)
    heard = Hearsay(FLEET)
    bomb = manifest("invented", size=1_000_000)
    assert len(bomb.payload) < 10_000

    heard.take(bomb)

    assert heard.bundles == {}


def test_what_is_told_again_under_one_name_takes_its_room_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hearsay, "STRANGE_CLASSES_BYTES_MAX", 2 * hearsay.STRANGE_BYTES_EACH)
    heard = Hearsay(FLEET)

    for _ in range(5):
        heard.take(manifest("one"))
    heard.take(manifest("two"))

    assert heard.bundles.keys() == {"one", "two"}


def test_orders_are_heard_of_devices_that_exist_and_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = len(order("dev-1").payload)
    monkeypatch.setattr(hearsay, "ORDERS_BYTES_MAX", 2 * size)
    heard = Hearsay(FLEET, devices=frozenset({"dev-1", "dev-2", "dev-3"}))

    for name in ("invented", "dev-1", "dev-1", "dev-2", "dev-3"):
        heard.take(order(name))

    assert heard.orders.keys() == {"dev-1", "dev-2"}
