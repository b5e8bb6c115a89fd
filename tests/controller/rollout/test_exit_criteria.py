"""A ring may have to show more than good verdicts before the next wave opens."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import insert

from controller_core import EVERYBODY, Core, plan
from mailboat_controller.releases.approval_review import plan_sentences
from mailboat_controller.rollout.exit_criteria import ShownBy, lacking
from mailboat_controller.rollout.members import Member
from mailboat_controller.store import exit_evidence, exit_tables
from mailboat_controller.store.exit_evidence import Shown
from mailboat_controller.store.instants import to_ms
from mailboat_controller.traces import timeline
from mailboat_schemas.documents.rollout_gate import Gate, GateKind
from mailboat_schemas.drills import ANSWERED
from mailboat_schemas.events import Event, EventKind
from mailboat_schemas.plan import PlanWave

RING = PlanWave(pilots=("dev-1", "dev-2"), restarts_min=2, drills_min=1)


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    core = Core(tmp_path)
    yield core
    core.store.close()


def drill(**evidence: object) -> Event:
    return Event.model_validate(
        {
            "event_id": "drill:1",
            "sequence": 1,
            "kind": EventKind.DRILL_PASSED,
            "observed_at": 0,
            "model": "vad",
            "serving_version": "1.0.0",
            "evidence": evidence,
        }
    )


def test_a_wave_waits_for_restarts_and_a_drill_and_says_what_is_missing(core: Core) -> None:
    devices = [core.fleet.enrol(f"dev-{n}") for n in (1, 2, 3)]
    digest = core.release("1.0.0", plan("first", RING, EVERYBODY))
    for device in devices[:2]:
        core.tell(device, EventKind.COMMITTED, digest)
    lacks_all = core.rollout("first")
    core.tell(devices[0], EventKind.RESTARTED, digest)
    core.tell(devices[0], EventKind.RESTARTED, digest)  # of the same device: counts once
    core.tell(devices[2], EventKind.RESTARTED, digest)  # not of the ring
    core.tell(devices[1], EventKind.DRILL_PASSED, "b" * 64, serving_version="1.0.0", evidence={})
    lacks_some = core.rollout("first")
    core.tell(devices[1], EventKind.RESTARTED, digest)
    drilled = {"serving_version": "1.0.0", "evidence": {ANSWERED: 12}}
    core.tell(devices[1], EventKind.DRILL_PASSED, "b" * 64, **drilled)

    assert lacks_all.waves_open == lacks_some.waves_open == 1
    assert "0 of 2 devices came back from a restart" in lacks_all.because
    assert "1 of 2 devices came back from a restart" in lacks_some.because
    # A drill while nobody asked anything is none under load.
    assert "0 of 1 devices passed a rollback drill under load" in lacks_some.because
    assert core.rollout("first").waves_open == 2
    with core.store.read() as tx:
        told = timeline.read(tx, "first").entries
    waves = [each.because for each in told if each.what == "rollout.wave"]
    assert waves[-1].endswith("with 2 restarts and 1 rollback drills in each class")
    assert [each.who for each in told if each.what == "device.drill_passed"] == ["dev-2"]
    assert {each.who for each in told if each.what == "device.restarted"} == {
        device.name for device in devices[:2]
    }


def test_a_restart_in_an_earlier_rollout_of_the_release_counts_and_a_drill_does_not(
    core: Core,
) -> None:
    """A device tells of one restart for an install, so it could show it to no later rollout."""
    device = core.fleet.enrol("dev-1")
    digest = core.release("1.0.0", plan("first", RING))
    core.tell(device, EventKind.RESTARTED, digest)
    with core.store.transaction() as tx:
        tx.execute(
            insert(exit_tables.exit_evidence).values(
                digest=digest, device="dev-1", shown="drilled", at=to_ms(core.now)
            )
        )
        found = exit_evidence.of_release(tx, digest, core.now)
        later = exit_evidence.of_release(tx, digest, core.now.replace(year=core.now.year + 1))

    assert found == {Shown.RESTARTED: {"dev-1"}, Shown.DRILLED: {"dev-1"}}
    assert later == {Shown.RESTARTED: {"dev-1"}, Shown.DRILLED: frozenset()}


def test_a_class_smaller_than_what_is_asked_shows_it_with_all_of_its_devices() -> None:
    members = [Member(device="dev-1", enrolment_number=1)]
    shown = ShownBy(restarted=frozenset({"dev-1", "dev-9"}))

    assert lacking(PlanWave(restarts_min=5), "kiosk", members, shown) == []
    assert lacking(PlanWave(restarts_min=5, drills_min=5), "kiosk", members, shown) == [
        "kiosk: 0 of 1 devices passed a rollback drill under load"
    ]


@pytest.mark.parametrize("answered", [0, -1, True, "many", None, 2.5])
def test_a_drill_without_a_number_of_answered_requests_is_none_under_load(answered: object) -> None:
    assert not exit_evidence.under_load(drill(**{ANSWERED: answered}))
    assert exit_evidence.under_load(drill(**{ANSWERED: 1}))


@pytest.mark.parametrize("kind", list(GateKind))
def test_every_kind_of_gate_may_ask_for_them_and_none_for_less_than_one(kind: GateKind) -> None:
    ok_min = 1 if kind is GateKind.COUNT else None
    gate = Gate(kind=kind, ok_min=ok_min, clean_restarts=3, rollback_drills=1)

    assert (gate.clean_restarts, gate.rollback_drills) == (3, 1)
    with pytest.raises(ValidationError):
        Gate(kind=kind, ok_min=ok_min, clean_restarts=0)


def test_an_approver_reads_them_and_a_plan_without_them_is_signed_as_before() -> None:
    (_, words) = plan_sentences(plan("first", RING))

    assert "in each class 2 come back from a restart of the agent" in words
    assert "in each class 1 pass a rollback drill under load" in words
    assert "restarts_min" not in str(plan("first").to_json())


def test_a_release_that_fits_no_class_of_its_plan_says_so(core: Core) -> None:
    core.fleet.enrol("dev-1")
    core.release("1.0.0", plan("first", hardware_classes=("elsewhere",)))

    assert core.rollout("first").because == "its release has no variant for any class of its plan"
