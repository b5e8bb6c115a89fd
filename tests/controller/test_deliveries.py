"""How releases came to devices: counted once each, from what they tell with ``trial_started``."""

from pathlib import Path
from typing import Any

import pytest

from delta_fleet import DeltaFleet
from enrolled_fleet import EnrolledDevice
from mailboat_controller.metrics.process_metrics import Metrics
from mailboat_controller.store import deliveries, releases
from mailboat_schemas.deltas import DELIVERY, Delivery, DeliveryOutcome, Source
from mailboat_schemas.events import EventKind

MODEL = b"m" * 10_000


@pytest.fixture
def fleet(tmp_path: Path) -> DeltaFleet:
    fleet = DeltaFleet(tmp_path)
    fleet.release("1.0.0", MODEL)
    fleet.enrol(3)
    return fleet


def came(outcome: DeliveryOutcome, fetched_bytes: int, **more: Any) -> dict[str, Any]:
    told = Delivery(outcome=outcome, fetched_bytes=fetched_bytes, made_bytes=0, **more)
    return {"evidence": {DELIVERY: told.model_dump(mode="json")}}


def try_it(fleet: DeltaFleet, device: EnrolledDevice, **more: Any) -> None:
    fleet.core.tell(device, EventKind.TRIAL_STARTED, fleet.versions["1.0.0"], **more)


def counted(fleet: DeltaFleet) -> dict[str, tuple[int, int, int]]:
    with fleet.core.store.read() as tx:
        found = deliveries.of_release(tx, fleet.versions["1.0.0"])
    return {each.outcome: (each.count, each.fetched_bytes, each.saved_bytes) for each in found}


def test_three_outcomes_are_counted_apart_and_what_was_saved(fleet: DeltaFleet) -> None:
    one, two, three = fleet.devices
    try_it(fleet, one, **came(DeliveryOutcome.DELTA, 400))
    try_it(fleet, two, **came(DeliveryOutcome.FULL, 10_000))
    failed = came(DeliveryOutcome.DELTA_FAILED_THEN_FULL, 10_400, reasons=("patch_altered",))
    try_it(fleet, three, **failed)

    assert counted(fleet) == {
        "delta": (1, 400, 9_600),
        "full": (1, 10_000, 0),
        "delta_failed_then_full": (1, 10_400, -400),
    }
    status = fleet.core.reconciler.status("r-1-0-0")
    assert [each["outcome"] for each in status["deliveries"]] == [
        "delta",
        "delta_failed_then_full",
        "full",
    ]
    shown = Metrics(fleet.core.store, dict).render().decode()
    assert 'mailboat_deliveries_total{outcome="delta"} 1.0' in shown
    assert 'mailboat_delivery_fetched_bytes_total{outcome="full"} 10000.0' in shown
    assert 'mailboat_delivery_saved_bytes{outcome="delta_failed_then_full"} -400.0' in shown
    assert 'mailboat_deltas{state="waiting"} 0.0' in shown


def test_a_delivery_that_is_told_twice_is_counted_once(fleet: DeltaFleet) -> None:
    device, told = fleet.devices[0], came(DeliveryOutcome.DELTA, 400)
    try_it(fleet, device, **told)
    digest = fleet.versions["1.0.0"]

    again = device.tells(1, EventKind.TRIAL_STARTED, digest=digest, **told)
    fleet.core.fleet.take(again, now=fleet.core.now)
    device.epoch = "b" * 16  # its journal was lost; it tells again what its state implies
    again = device.tells(1, EventKind.TRIAL_STARTED, digest=digest, **told)
    fleet.core.fleet.take(again, now=fleet.core.now)

    assert counted(fleet) == {"delta": (1, 400, 9_600)}


def test_what_a_device_makes_up_stays_within_bounds(fleet: DeltaFleet) -> None:
    try_it(fleet, fleet.devices[0], **came(DeliveryOutcome.FULL, (1 << 53) - 1))

    assert counted(fleet)["full"][1] == deliveries.FETCHED_TIMES_MAX * len(MODEL)


@pytest.mark.parametrize("evidence", [{}, {DELIVERY: 7}, {DELIVERY: {"outcome": "by pigeon"}}])
def test_a_device_that_does_not_say_how_is_not_guessed_at(
    fleet: DeltaFleet, evidence: dict[str, Any]
) -> None:
    try_it(fleet, fleet.devices[0], evidence=evidence)

    assert counted(fleet) == {}


@pytest.mark.parametrize("source", [Source.SITE_CACHE, Source.IMPORT])
def test_a_device_that_never_asked_the_controller_for_a_byte_is_exposed_by_its_first_event(
    fleet: DeltaFleet, source: Source
) -> None:
    """From a site's cache or a USB stick there is no download here; the trial is what counts."""
    told = came(DeliveryOutcome.FULL, 10_000, source_bytes={source: 10_000})

    try_it(fleet, fleet.devices[0], **told)

    (waiting,) = fleet.core.reconciler.status("r-1-0-0")["classes"].values()
    assert (waiting["in_progress"], waiting["waiting"]) == (1, 2)
    fleet.core.tell(fleet.devices[0], EventKind.TRIAL_FAILED, fleet.versions["1.0.0"])
    (after,) = fleet.core.reconciler.status("r-1-0-0")["classes"].values()
    assert after["failed"] == 1


def test_an_event_about_a_release_that_nobody_knows_is_not_counted(fleet: DeltaFleet) -> None:
    told = came(DeliveryOutcome.DELTA, 400)

    fleet.core.tell(fleet.devices[0], EventKind.TRIAL_STARTED, "ee" * 32, **told)

    assert counted(fleet) == {}
    with fleet.core.store.read() as tx:
        assert deliveries.totals(tx) == ()
        assert releases.by_digest(tx, "ee" * 32) is None
