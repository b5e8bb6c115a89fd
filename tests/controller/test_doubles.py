"""Two devices with one id are found, told, and never taken for one in silence."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from enrolled_fleet import NOON, EnrolledDevice, EnrolledFleet
from mailboat_controller.ingest import doubles
from mailboat_controller.store import audit, events, quarantine
from mailboat_schemas.events import EventKind

HOUR = timedelta(hours=1)


@pytest.fixture
def fleet(tmp_path: Path, database_url: str) -> Iterator[EnrolledFleet]:
    fleet = EnrolledFleet(tmp_path, database_url)
    yield fleet
    fleet.store.close()


@pytest.fixture
def card(fleet: EnrolledFleet) -> EnrolledDevice:
    return fleet.enrol("dev-1")


def copied(device: EnrolledDevice) -> EnrolledDevice:
    """The same key, the same journal."""
    return EnrolledDevice(device.name, key=device.key, epoch=device.epoch)


def told(fleet: EnrolledFleet) -> list[str]:
    with fleet.store.read() as tx:
        return [row.details["sign"] for row in audit.page(tx) if row.action == doubles.ACTION]


def test_a_copied_card_that_goes_on_alone_contradicts_its_original(
    fleet: EnrolledFleet, card: EnrolledDevice
) -> None:
    clone = copied(card)
    fleet.take(card.numbered(1, 5))

    other = clone.events([clone.event(n, observed_at=777) for n in (4, 5, 6, 7)])
    result = fleet.take(other, now=NOON + HOUR)

    assert result.acks == ()
    assert told(fleet) == [doubles.OTHER_EVENTS]
    with fleet.store.read() as tx:
        assert [row.sequence for row in events.page(tx)] == [1, 2, 3, 4, 5]
        assert [row["code"] for row in quarantine.page(tx)] == ["E-DEVICE-DOUBLED"]
    row = fleet.row(card)
    assert (row.doubled_at, row.doubled_by) == (NOON + HOUR, doubles.OTHER_EVENTS)


def test_the_original_is_taken_on_as_before(fleet: EnrolledFleet, card: EnrolledDevice) -> None:
    clone = copied(card)
    fleet.take(card.numbered(1, 5))

    fleet.take(clone.events([clone.event(5, observed_at=777)]), card.numbered(6, 7))

    with fleet.store.read() as tx:
        assert [row.sequence for row in events.page(tx)] == [1, 2, 3, 4, 5, 6, 7]


def test_what_a_broker_delivers_again_is_no_second_device(
    fleet: EnrolledFleet, card: EnrolledDevice
) -> None:
    batch = card.numbered(1, 5)
    fleet.take(batch, card.numbered(6, 9))

    fleet.take(batch, batch, card.numbered(2, 12))

    assert told(fleet) == []
    assert fleet.row(card).doubled_at is None


def test_an_outbox_that_was_given_up_and_goes_on_is_a_second_devices(
    fleet: EnrolledFleet, card: EnrolledDevice
) -> None:
    fresh = copied(card)
    fresh.epoch = "b" * 16
    fleet.take(card.numbered(1, 3))
    fleet.take(fresh.numbered(1, 2))  # a lost journal does no more than that
    assert told(fleet) == []

    fleet.take(card.events([card.event(4, event_id="vad:old:4")]))

    assert told(fleet) == [doubles.OLDER_OUTBOX]
    with fleet.store.read() as tx:
        assert [(row.epoch[0], row.sequence) for row in events.page(tx)][-1] == ("a", 4)


def test_a_late_repetition_of_the_older_outbox_is_no_second_device(
    fleet: EnrolledFleet, card: EnrolledDevice
) -> None:
    old = card.numbered(1, 3)
    fleet.take(old)
    card.epoch = "b" * 16
    fleet.take(card.numbered(1, 2))

    fleet.take(old)

    assert told(fleet) == []


def test_a_device_that_says_its_session_is_taken_is_believed(
    fleet: EnrolledFleet, card: EnrolledDevice
) -> None:
    fleet.take(card.tells(1, EventKind.SECURITY, code=doubles.SESSION_TAKEN_CODE))

    assert told(fleet) == [doubles.SESSION_TAKEN]


def test_it_is_told_once_a_day_with_the_next_step(
    fleet: EnrolledFleet, card: EnrolledDevice
) -> None:
    clone = copied(card)
    fleet.take(card.numbered(1, 5))
    other = clone.events([clone.event(5, observed_at=777)])

    results = [fleet.take(other, now=NOON + n * HOUR) for n in (0, 1, 23, 25)]

    assert [result.doubled for result in results] == [1, 0, 0, 1]
    with fleet.store.read() as tx:
        entry = next(row for row in audit.page(tx) if row.action == doubles.ACTION)
    assert "enrol both machines under names of their own" in entry.reason


def test_the_code_is_the_one_that_agents_send() -> None:
    from mailboat_agent.link.flapping import SessionTaken

    assert SessionTaken.code == doubles.SESSION_TAKEN_CODE
