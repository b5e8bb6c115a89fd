from collections.abc import Iterator
from pathlib import Path

import pytest

from enrolled_fleet import NOON, EnrolledFleet
from mailboat_controller.store import outbox


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[EnrolledFleet]:
    fleet = EnrolledFleet(tmp_path)
    yield fleet
    fleet.store.close()


def put(fleet: EnrolledFleet, topic: str, payload: bytes, *, retain: bool) -> bool:
    with fleet.store.transaction() as tx:
        return outbox.put(tx, topic=topic, payload=payload, qos=1, retain=retain, now=NOON)


def payloads(fleet: EnrolledFleet) -> list[bytes]:
    with fleet.store.read() as tx:
        return [row.payload for row in outbox.pending(tx, 100)]


def test_a_retained_message_replaces_the_one_before_it_that_nobody_saw(
    fleet: EnrolledFleet,
) -> None:
    for payload in (b"1", b"2"):
        put(fleet, "class/a", payload, retain=True)
    put(fleet, "class/b", b"3", retain=True)

    assert payloads(fleet) == [b"2", b"3"]


def test_replies_do_not_replace_each_other(fleet: EnrolledFleet) -> None:
    for payload in (b"1", b"2"):
        put(fleet, "reply", payload, retain=False)

    assert payloads(fleet) == [b"1", b"2"]


def test_when_it_is_full_replies_are_dropped_and_manifests_are_not(
    fleet: EnrolledFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MESSAGES_MAX", 2)
    put(fleet, "reply", b"1", retain=False)
    put(fleet, "reply", b"2", retain=False)

    assert not put(fleet, "reply", b"3", retain=False)
    assert put(fleet, "class/a", b"4", retain=True)
    assert payloads(fleet) == [b"1", b"2", b"4"]
