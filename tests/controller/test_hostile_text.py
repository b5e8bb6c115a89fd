"""Text that one database holds and another does not: one device's words break nobody's figures."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from enrolled_fleet import DIGEST, NOON, EnrolledFleet
from mailboat_controller.store import audit, deployed, fleet_counts, outcomes
from mailboat_schemas.events import EventKind

ZERO = "a\0b"
MODEL = {
    "model": "vad",
    "phase": "committed",
    "serving_version": "1.0.0",
    "serving_digest": DIGEST,
    "because": ZERO,
}


@pytest.fixture
def fleet(tmp_path: Path, database_url: str) -> Iterator[EnrolledFleet]:
    fleet = EnrolledFleet(tmp_path, database_url)
    yield fleet
    fleet.store.close()


def test_a_zero_character_in_one_report_breaks_no_count_of_the_fleet(fleet: EnrolledFleet) -> None:
    hostile, honest = fleet.enrol("dev-1"), fleet.enrol("dev-2")
    facts = {"agent_version": ZERO, "labels": {ZERO: ZERO}, "disk_free_bytes": 1}

    taken = fleet.take(
        hostile.report(notes=(ZERO,), trust_versions={ZERO: 1}, facts=facts, models=(MODEL,)),
        honest.report(facts={"disk_free_bytes": 1}, models=({**MODEL, "because": ""},)),
    )

    assert taken.quarantined == {}
    with fleet.store.read() as tx:
        (site,) = fleet_counts.by_site(tx, NOON)
        deployed.count(tx)  # looks into the models of every report
    assert site.disk_low == 2
    assert fleet.row(hostile).report is not None
    assert "\0" not in str(fleet.row(hostile).report)


def test_a_zero_character_in_an_event_holds_up_nothing_behind_it(fleet: EnrolledFleet) -> None:
    device = fleet.enrol("dev-1")

    taken = fleet.take(
        device.tells(1, EventKind.ROLLED_BACK, because=ZERO, code=ZERO), device.numbered(2, 3)
    )

    assert [ack.events_acked for _, ack in taken.acks] == [3]
    with fleet.store.read() as tx:
        assert [row.because for row in outcomes.failures(tx, DIGEST)] == ["ab"]


def test_a_zero_character_in_what_an_operator_says_is_left_out(fleet: EnrolledFleet) -> None:
    with fleet.store.transaction() as tx:
        audit.append(
            tx,
            at=NOON,
            actor=ZERO,
            action="a.b",
            subject=ZERO,
            reason=ZERO + "\ud800",
            details={ZERO: [ZERO, 1 << 62, None, 1.5]},
        )

    with fleet.store.read() as tx:
        (row,) = audit.page(tx)
        assert audit.verify(tx) is None
    assert (row.actor, row.subject, row.reason) == ("ab", "ab", "ab?")
    assert row.details == {"ab": ["ab", 1 << 62, None, 1.5]}
