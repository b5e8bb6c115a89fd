"""Statistical waves, promotion by a person and undo, on a real database with real signatures."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from controller_core import EVERYBODY, PPM, Core, plan
from enrolled_fleet import CLASS
from mailboat_controller.releases.approval_review import plan_sentences
from mailboat_controller.rollout.state import Phase, Trigger
from mailboat_controller.store import audit, overrides
from mailboat_controller.store.audit import AuditRow
from mailboat_schemas.documents.rollout_gate import Gate, GateKind
from mailboat_schemas.errors import Conflict
from mailboat_schemas.events import EventKind
from mailboat_schemas.gate_terms import terms_of
from mailboat_schemas.plan import PlanWave

# Five good verdicts exclude that 40 % fail, wrongly once in ten times.
TERMS = terms_of(Gate(kind=GateKind.STATISTICAL, p1=40, beta=10, looks=1, soak_hours=1, q=60))
FIVE = PlanWave(count=5, cap_ppm=PPM, gate=TERMS)
REST = EVERYBODY.model_copy(update={"gate": TERMS})


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    core = Core(tmp_path)
    yield core
    core.store.close()


def entry(core: Core, action: str) -> AuditRow:
    """The newest."""
    with core.store.read() as tx:
        return [row for row in audit.page(tx) if row.action == action][-1]


def order(core: Core, name: str, trigger: Trigger) -> None:
    core.reconciler.order(name, trigger, actor="operator:alice", reason="seen it", now=core.now)


def test_a_statistical_wave_opens_the_next_at_its_look_and_its_numbers_are_kept(core: Core) -> None:
    devices = [core.fleet.enrol(f"dev-{n}") for n in range(1, 7)]
    digest = core.release("1.0.0", plan("first", FIVE, REST))
    for device in devices[:-1]:
        core.tell(device, EventKind.COMMITTED, digest)
    soaking = core.rollout("first")

    core.now += timedelta(hours=1)
    core.run()

    assert (soaking.waves_open, "soaks until" in soaking.because) == (1, True)
    if core.rollout("first").waves_open == 1:  # the sixth device is one of the five
        core.tell(devices[-1], EventKind.COMMITTED, digest)
    assert core.rollout("first").waves_open == 2
    kept = entry(core, "rollout.wave")
    assert "5 of 5 exposed are good, 0 failed, 0 silent" in kept.reason
    assert kept.details["evidence"]["exposed"] == 5


def test_a_person_promotes_and_the_override_is_kept_with_what_the_gate_lacked(core: Core) -> None:
    pilot = core.fleet.enrol("dev-1")
    core.fleet.enrol("dev-2")
    digest = core.release("1.0.0", plan("first", FIVE, REST))
    core.tell(pilot, EventKind.COMMITTED, digest)

    order(core, "first", Trigger.PROMOTE)

    assert core.rollout("first").waves_open == 2
    kept = entry(core, "rollout.promote")
    assert (kept.actor, kept.reason) == ("operator:alice", "seen it")
    assert "the gate held: wave 1 of 2: soaks until" in kept.details["because"]
    order(core, "first", Trigger.PROMOTE)
    assert core.rollout("first").phase is Phase.COMPLETED
    assert core.assignment().current is not None


def test_a_late_failure_of_a_completed_statistical_rollout_is_weighed_not_just_counted(
    core: Core,
) -> None:
    devices = [core.fleet.enrol(f"dev-{n}") for n in range(1, 9)]
    digest = core.release("1.0.0", plan("first", REST))
    for device in devices[:6]:
        core.tell(device, EventKind.COMMITTED, digest)
    core.now += timedelta(hours=1)
    core.run()
    assert core.rollout("first").phase is Phase.COMPLETED

    core.tell(devices[6], EventKind.ROLLED_BACK, digest)
    weighed = core.rollout("first").phase
    core.tell(devices[7], EventKind.ROLLED_BACK, digest)
    core.tell(devices[0], EventKind.ROLLED_BACK, digest)

    assert weighed is Phase.COMPLETED
    assert core.rollout("first").phase is Phase.HALTED
    assert entry(core, "rollout.halted").details["evidence"]["failed"] == 3


def test_undo_takes_a_completed_release_back_to_the_one_before(core: Core) -> None:
    device = core.fleet.enrol("dev-1")
    first = core.release("1.0.0", plan("first"))
    core.tell(device, EventKind.COMMITTED, first)
    with pytest.raises(Conflict, match="has no earlier approved release of vad"):
        order(core, "first", Trigger.UNDO)
    second = core.release("1.1.0", plan("second"))
    core.tell(device, EventKind.COMMITTED, second)

    order(core, "second", Trigger.UNDO)

    current = core.assignment().current
    assert current is not None
    assert current.digest == first
    assert core.rollout("second").phase is Phase.ABORTED
    assert entry(core, "rollout.undo").reason == "seen it"


def test_an_approver_reads_what_the_gate_promises_before_signing() -> None:
    terms = terms_of(Gate(kind=GateKind.STATISTICAL))
    wave = PlanWave(count=200, cap_ppm=250_000, gate=terms, wait_max=96 * 3600)

    (_, words) = plan_sentences(plan("first", wave))

    assert "fewer than 10 % fail (wrong in 1 % of rollouts)" in words
    assert "asked 5 times from 12 h on every 6 h, the silent counted as failed" in words
    assert "51 good verdicts at least" in words
    assert words.endswith("pauses for a person after 96 h")


def test_a_promotion_does_not_skip_a_wave_that_the_gate_opened_at_the_same_moment(
    core: Core,
) -> None:
    devices = [core.fleet.enrol(f"dev-{n}") for n in range(1, 6)]
    digest = core.release("1.0.0", plan("first", FIVE, REST))
    for device in devices:
        core.tell(device, EventKind.COMMITTED, digest)
    core.now += timedelta(hours=1)  # its look is due, and nobody has looked yet

    with pytest.raises(Conflict, match="opened wave 2 by itself"):
        order(core, "first", Trigger.PROMOTE)
    core.run()

    assert core.rollout("first").waves_open == 2
    assert core.rollout("first").phase is Phase.RUNNING


def test_two_people_who_promote_the_same_wave_open_one_more_and_not_two(core: Core) -> None:
    core.fleet.enrol("dev-1")
    core.fleet.enrol("dev-2")
    core.release("1.0.0", plan("first", FIVE, REST, REST))

    def promote(person: str) -> None:
        core.reconciler.order(
            "first", Trigger.PROMOTE, actor=person, reason="seen it", now=core.now, wave=1
        )

    promote("operator:alice")
    with pytest.raises(Conflict, match="wave 2 is open by now, not wave 1"):
        promote("operator:bob")

    assert core.rollout("first").waves_open == 2


def test_an_order_that_names_a_wave_of_a_rollout_without_one_is_refused(core: Core) -> None:
    core.release("1.0.0", plan("first", FIVE, manual_start=True))

    with pytest.raises(Conflict, match="no wave is open by now, not wave 1"):
        core.reconciler.order(
            "first", Trigger.START, actor="operator:bob", reason="r", now=core.now, wave=1
        )
    assert core.rollout("first").phase is Phase.PLANNED


def test_rings_go_by_the_labels_that_a_device_reports_which_it_decides_with_itself(
    core: Core,
) -> None:
    """Its agent.toml may have changed since it was enrolled."""
    moved, other = core.fleet.enrol("dev-1"), core.fleet.enrol("dev-2")
    ring = EVERYBODY.model_copy(update={"ring": {"ring": "canary"}})
    core.release("1.0.0", plan("first", ring))
    nobody = core.rollout("first").waves_open

    facts = {"labels": {"ring": "canary"}}
    assert not core.fleet.take(moved.report(facts=facts), now=core.now).quarantined
    assert not core.fleet.take(other.report(), now=core.now).quarantined
    core.run()

    counts = core.reconciler.status("first")["classes"][CLASS]
    assert (nobody, core.rollout("first").waves_open) == (0, 1)
    assert (counts["eligible"], counts["excluded"]) == (1, {"in no ring of the plan": 1})


def test_what_an_operator_notes_of_a_device_moves_it_into_no_ring(core: Core) -> None:
    core.fleet.enrol("dev-1")
    ring = EVERYBODY.model_copy(update={"ring": {"ring": "canary"}})
    core.release("1.0.0", plan("first", ring))

    with core.store.transaction() as tx:
        overrides.set_label(tx, "dev-1", "ring", "canary")
    core.run()

    assert core.rollout("first").waves_open == 0
    counts = core.reconciler.status("first")["classes"][CLASS]
    assert counts["excluded"] == {"in no ring of the plan": 1}


def test_a_release_withdrawn_before_its_rollout_was_started_is_never_offered(core: Core) -> None:
    core.fleet.enrol("dev-1")
    core.release("1.0.0", plan("first", manual_start=True))
    core.trust.withdraw("1.0.0")
    core.submit("approval-vad")

    with pytest.raises(Conflict, match="is aborted"):
        order(core, "first", Trigger.START)

    assert "withdrawn before it started" in core.rollout("first").because
    assert core.desired().assignments == ()


def test_of_two_rollouts_started_at_once_the_newer_goes_on_and_every_count_adds_up(
    core: Core,
) -> None:
    devices = [core.fleet.enrol(f"dev-{n}") for n in (1, 2, 3)]
    digests = [core.release(f"1.{n}.0", plan(f"plan-{n}", manual_start=True)) for n in (0, 1)]
    for name in ("plan-1", "plan-0"):  # the older release is started last, so it is the newer one
        order(core, name, Trigger.START)
    core.tell(devices[0], EventKind.TRIAL_STARTED, digests[1], version="1.1.0")
    core.tell(devices[1], EventKind.COMMITTED, digests[0], version="1.0.0")

    assert core.rollout("plan-1").phase is Phase.SUPERSEDED
    assert core.rollout("plan-0").phase is Phase.RUNNING
    for name in ("plan-0", "plan-1"):
        (counts,) = core.reconciler.status(name)["classes"].values()
        places = ("not_open", "waiting", "in_progress", "ok", "failed")
        assert counts["devices"] == 3 == sum(counts[place] for place in places)
