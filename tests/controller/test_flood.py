"""A device that says too much is not heard for a while, and nobody else notices."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from enrolled_fleet import NOON, EnrolledFleet
from mailboat_controller.ingest import flood
from mailboat_controller.ingest.batch import ingest
from mailboat_controller.ingest.flood import FloodGate, FloodLimits
from mailboat_controller.ingest.flood_telling import FLOODING_ACTION
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.store import audit, events

SECOND = timedelta(seconds=1)
FEW = FloodLimits(messages_per_second=2, messages_burst=3)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[EnrolledFleet]:
    fleet = EnrolledFleet(tmp_path)
    yield fleet
    fleet.store.close()


def said(device: str, count: int, *, kind: str = "up/events", size: int = 1) -> list[Incoming]:
    topic = f"mb/1/demo/site/-/dev/{device}/{kind}"
    return [Incoming(topic=topic, payload=bytes([n]) * size) for n in range(count)]


def test_a_burst_passes_and_what_is_beyond_it_does_not() -> None:
    admitted = FloodGate(FEW).admit(said("dev-1", 5), NOON)

    assert [message.payload for message in admitted.messages] == [b"\0", b"\1", b"\2"]
    assert admitted.ignored == 2
    assert admitted.flooding == {"dev-1": 2}


def test_it_is_heard_again_at_its_rate() -> None:
    gate = FloodGate(FEW)
    gate.admit(said("dev-1", 5), NOON)

    assert len(gate.admit(said("dev-1", 5), NOON + SECOND).messages) == 2
    assert len(gate.admit(said("dev-1", 5), NOON + 60 * SECOND).messages) == 3


def test_others_are_heard_meanwhile() -> None:
    gate = FloodGate(FEW)
    gate.admit(said("dev-1", 100), NOON)

    assert len(gate.admit(said("dev-2", 3), NOON).messages) == 3


def test_bytes_are_limited_too() -> None:
    gate = FloodGate(FloodLimits(bytes_per_second=10, bytes_burst=100))

    first = gate.admit(said("dev-1", 5, size=60), NOON)
    later = gate.admit(said("dev-1", 1, size=60), NOON + 3 * SECOND)

    assert len(first.messages) == 2  # the second one goes into debt
    assert len(later.messages) == 1


def test_our_clock_set_back_gives_nobody_anything() -> None:
    gate = FloodGate(FEW)
    gate.admit(said("dev-1", 3), NOON)

    assert gate.admit(said("dev-1", 1), NOON - 3600 * SECOND).messages == ()


@pytest.mark.parametrize("kind", ["st", "up/report"])
def test_of_what_no_outbox_keeps_the_newest_is_taken_when_there_is_room(kind: str) -> None:
    gate = FloodGate(FEW)
    gate.admit(said("dev-1", 3), NOON)
    waiting = gate.admit(said("dev-1", 5, kind=kind), NOON)

    assert waiting.messages == ()
    assert [m.payload for m in gate.admit([], NOON + SECOND).messages] == [b"\4"]
    assert gate.admit([], NOON + 9 * SECOND).messages == ()


def test_a_newer_report_that_is_heard_makes_the_one_that_waited_old_news() -> None:
    gate = FloodGate(FEW)
    gate.admit(said("dev-1", 3), NOON)
    gate.admit(said("dev-1", 1, kind="st"), NOON)

    heard = gate.admit(said("dev-1", 3, kind="st")[2:], NOON + 9 * SECOND)

    assert [message.payload for message in heard.messages][-1] == b"\2"
    assert gate.admit([], NOON + 10 * SECOND).messages == ()


def test_a_flood_is_told_once_an_hour_with_all_that_was_ignored() -> None:
    gate = FloodGate(FEW)
    gate.admit(said("dev-1", 5), NOON)

    assert gate.admit(said("dev-1", 5), NOON + SECOND).flooding == {}
    hour_later = gate.admit(said("dev-1", 10), NOON + flood.TELL_EVERY).flooding
    assert hour_later == {"dev-1": 3 + 7}


def test_what_it_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flood, "DEVICES_MAX", 3)
    monkeypatch.setattr(flood, "KEPT_MESSAGES_MAX", 2)
    gate = FloodGate(FloodLimits(messages_burst=1, messages_per_second=0.001))

    for n in range(10):
        gate.admit(said(f"dev-{n}", 2, kind="st"), NOON)

    assert len(gate._buckets) == 3
    assert len(gate._kept) == 2


def test_what_waits_is_bounded_in_bytes_and_the_count_goes_down_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flood, "KEPT_BYTES_MAX", 25)
    gate = FloodGate(FloodLimits(messages_burst=1, messages_per_second=1))

    def waits(device: str, size: int, now: datetime = NOON) -> bool:
        gate.admit(said(device, 1), now)
        return gate.admit(said(device, 1, kind="st", size=size), now).ignored == 0

    assert waits("dev-1", 10)
    assert waits("dev-1", 20)  # in the place of the one before
    assert not waits("dev-2", 10)
    assert gate.waiting
    assert len(gate.admit([], NOON + SECOND).messages) == 1
    assert not gate.waiting
    assert waits("dev-3", 25, NOON + SECOND)


def test_nothing_is_lost_because_the_outbox_sends_again(fleet: EnrolledFleet) -> None:
    device, gate, now, acked = fleet.enrol("dev-1"), FloodGate(FEW), NOON, 0
    for _ in range(100):
        sent = [device.numbered(n, n) for n in range(acked + 1, min(acked + 9, 41))]
        result = fleet.take(*gate.admit(sent, now).messages, now=now)
        acked = max([acked, *(ack.events_acked for _, ack in result.acks)])
        now += SECOND

    with fleet.store.read() as tx:
        assert [row.sequence for row in events.page(tx)] == list(range(1, 41))


def test_it_stands_in_the_audit_log(fleet: EnrolledFleet) -> None:
    fleet.enrol("dev-1")
    with fleet.store.device_transaction() as tx:
        ingest(tx, [], fleet="demo", now=NOON, flooding={"dev-1": 7, "stranger": 9})

    with fleet.store.read() as tx:
        (entry,) = audit.page(tx)
    assert (entry.action, entry.subject) == (FLOODING_ACTION, "dev-1")
    assert entry.details == {"ignored": 7}


def test_a_week_offline_comes_back_without_a_pause() -> None:
    """What an outbox holds at most goes out in a burst: 20 state events a day in batches, windows
    of three models in a minute each, 200 to a message of 192 KiB."""
    gate = FloodGate(FloodLimits())
    windows = 3 * 60 * 24 * 7 // 200 + 1
    sent = [*said("dev-1", 2), *said("dev-1", windows, size=192 * 1024)]

    assert gate.admit(sent, NOON).ignored == 0
