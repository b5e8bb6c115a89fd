"""Holds, pins, counters, labels and contacts on every database."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from enrolled_fleet import NOON, EnrolledFleet
from mailboat_controller.store import contacts, overrides
from mailboat_controller.store.overrides import HOLD, PIN, OverrideRow

HOUR = timedelta(hours=1)
HELD = OverrideRow(
    device="dev-1",
    kind=HOLD,
    model="",
    version=None,
    digest=None,
    by="operator:alice",
    reason="why",
    at=NOON,
    expires_at=NOON + HOUR,
)
PINNED = replace(HELD, kind=PIN, model="vad", version="1.0.0", digest="ab" * 32)


@pytest.fixture
def fleet(tmp_path: Path, database_url: str) -> Iterator[EnrolledFleet]:
    fleet = EnrolledFleet(tmp_path, database_url)
    yield fleet
    fleet.store.close()


def test_orders_of_devices_are_kept_replaced_and_forgotten(fleet: EnrolledFleet) -> None:
    with fleet.store.transaction() as tx:
        for row in (HELD, PINNED, replace(PINNED, reason="another")):
            overrides.put(tx, row)
        overrides.note_counter(tx, "dev-1", 2**53)
        overrides.note_counter(tx, "dev-1", 2**53 + 1)
        overrides.set_label(tx, "dev-1", "owner", "ana")

        assert [row.reason for row in overrides.of_device(tx, "dev-1")] == ["why", "another"]
        assert overrides.count_devices(tx) == 1
        assert overrides.newest_counter(tx, "dev-1") == 2**53 + 1
        assert overrides.labels_of(tx, ["dev-1", "dev-2"]) == {"dev-1": {"owner": "ana"}}
        assert overrides.remove(tx, "dev-1", HOLD, "")
        assert not overrides.remove(tx, "dev-1", HOLD, "")
        assert overrides.forget_expired(tx, NOON + 2 * HOUR) == 1
        assert overrides.every(tx) == {}


def test_a_device_was_heard_of_when_its_events_came(fleet: EnrolledFleet) -> None:
    device = fleet.enrol("dev-1")
    fleet.take(device.numbered(1, 2), now=NOON)
    with fleet.store.read() as tx:
        found = set(contacts.since(tx, ["dev-1", "dev-2"], NOON - HOUR))
        later = set(contacts.since(tx, ["dev-1"], NOON + HOUR))

    assert found == {("dev-1", NOON)}
    assert later == set()
