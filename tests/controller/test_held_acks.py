"""Under load a device is told its newest watermark, and never later than it would ask."""

import pytest

from mailboat_controller.mqtt import held_acks
from mailboat_controller.mqtt.held_acks import HELD_SECONDS_MAX, HeldAcks
from mailboat_schemas.reports import Ack

A, B = "a" * 16, "b" * 16


def ack(reached: int, *, device: str = "dev-1", epoch: str = A, rewind: bool = False) -> Ack:
    return Ack(device=device, epoch=epoch, events_acked=reached, telemetry_acked=0, rewind=rewind)


def test_nothing_is_held_when_nothing_else_waits() -> None:
    acks = HeldAcks()
    acks.add([("t", ack(1))], 0.0)

    assert acks.due(0.0, more_waits=False) == [("t", ack(1))]
    assert acks.due(9.0, more_waits=False) == []


def test_of_several_to_one_outbox_the_newest_goes() -> None:
    acks = HeldAcks()
    acks.add([("t", ack(1)), ("u", ack(7, device="dev-2"))], 0.0)
    assert acks.due(0.1, more_waits=True) == []
    acks.add([("t", ack(2)), ("t", ack(5, epoch=B))], 0.1)

    assert acks.due(0.2, more_waits=False) == [
        ("t", ack(2)),
        ("u", ack(7, device="dev-2")),
        ("t", ack(5, epoch=B)),
    ]


def test_a_gap_is_told_even_if_what_came_later_had_none() -> None:
    acks = HeldAcks()
    acks.add([("t", ack(1, rewind=True))], 0.0)
    acks.add([("t", ack(2))], 0.1)

    assert acks.due(0.1, more_waits=False) == [("t", ack(2, rewind=True))]


def test_load_without_an_end_holds_nothing_for_longer_than_the_bound() -> None:
    acks = HeldAcks()
    acks.add([("t", ack(1))], 10.0)
    acks.add([("t", ack(2))], 10.0 + HELD_SECONDS_MAX - 0.01)
    assert acks.due(10.0 + HELD_SECONDS_MAX - 0.01, more_waits=True) == []

    assert acks.due(10.0 + HELD_SECONDS_MAX, more_waits=True) == [("t", ack(2))]
    acks.add([("t", ack(3))], 20.0)  # begins to count anew
    assert acks.due(20.1, more_waits=True) == []


def test_no_more_are_held_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_acks, "HELD_ACKS_MAX", 3)
    acks = HeldAcks()
    for n in range(3):
        assert acks.due(0.0, more_waits=True) == []
        acks.add([(f"t{n}", ack(n))], 0.0)

    assert len(acks.due(0.0, more_waits=True)) == 3
