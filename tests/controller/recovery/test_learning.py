"""An old backup under a fleet that has gone on: nothing goes back, and nothing is made up."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controller_core import EVERYBODY, Core, plan
from enrolled_fleet import CLASS, FLEET, EnrolledDevice
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.recovery import behind
from mailboat_controller.recovery.behind import highest_of, problem, still_behind
from mailboat_controller.recovery.counters import MARGIN_MAX, MARGIN_MIN, margin
from mailboat_controller.rollout.state import Phase, Trigger
from mailboat_controller.store import (
    audit,
    devices,
    events,
    outbox,
    recoveries,
    releases,
    trust_roles,
)
from mailboat_schemas.codec import decode
from mailboat_schemas.desired import ManifestBundle
from mailboat_schemas.events import EventKind
from mailboat_schemas.plan import PlanWave
from mailboat_schemas.topics import Channel, build
from mailboat_schemas.trust import accept_trust
from restored_core import AgedCore, backup, learn, restore, retained

PILOT_THEN_ALL = (PlanWave(pilots=("dev-1",)), EVERYBODY)
LATER = timedelta(hours=6)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> AgedCore:
    # The trust client reads the wall clock, so the story begins in the real past.
    begins = datetime.now(UTC) - LATER - timedelta(hours=1)
    core = AgedCore(tmp_path_factory.mktemp("story") / "core", now=begins)
    core.enrol("dev-1")
    core.enrol("dev-2")
    core.release("1.0.0", plan("first"))
    complete(core, "first", "1.0.0")
    return core


@pytest.fixture
def core(story: AgedCore, tmp_path: Path) -> Iterator[AgedCore]:
    core = story.clone(tmp_path / "core")
    yield core
    core.store.close()


def digest_of(core: AgedCore, version: str) -> str:
    with core.store.read() as tx:
        row = releases.by_version(tx, "vad", version)
    assert row is not None
    return row.digest


def complete(core: AgedCore, rollout: str, version: str) -> None:
    for name in ("dev-1", "dev-2"):
        core.tell(
            device(core, name), EventKind.COMMITTED, digest_of(core, version), version=version
        )
    core.run()
    assert core.rollout(rollout).phase is Phase.COMPLETED


def device(core: AgedCore, name: str) -> EnrolledDevice:
    return core.named[name]


def accepted_by_a_device(core: AgedCore, before: bytes, after: bytes, scratch: Path) -> None:
    """Two manifests in the order a device gets them, through the client's own checks."""
    held: dict[str, bytes] = {}
    for number, payload in enumerate((before, after)):
        bundle = decode(ManifestBundle, payload)
        place = scratch / str(number)
        place.mkdir()
        held = accept_trust(
            bundle.trust,
            factory_root=core.trust.factory_root,
            held=held,
            models=("vad",),
            scratch=place,
        )


def test_counters_and_versions_go_above_everything_that_was_given(
    core: AgedCore, tmp_path: Path
) -> None:
    path, at = backup(core), core.now
    core.now += LATER
    core.release("1.1.0", plan("second"))
    core.run()
    newest = retained(core)
    given = core.manifest().counter
    restore(core, path, at)
    assert core.manifest().counter < given

    learned = learn(core, newest)
    core.run()

    assert core.manifest().counter > given + LATER.total_seconds()
    assert learned.manifests[CLASS][1] > given
    assert all(after > LATER.total_seconds() for _, after in learned.online.values())
    accepted_by_a_device(core, newest.payload, core.manifest().bundle, tmp_path)


@pytest.mark.slow
def test_what_was_current_stays_current_though_the_backup_is_older(core: AgedCore) -> None:
    path, at = backup(core), core.now
    core.now += LATER
    core.release("1.1.0", plan("second"))
    complete(core, "second", "1.1.0")
    newest = retained(core)
    restore(core, path, at)

    learned = learn(core, newest)
    core.run()

    (assignment,) = core.desired().assignments
    assert assignment.current is not None
    assert assignment.current.version == "1.1.0"
    assert core.rollout("second").phase is Phase.COMPLETED
    assert learned.releases == ["vad@1.1.0"]


@pytest.mark.slow
def test_a_rollout_under_way_is_paused_where_it_was_until_a_person_resumes_it(
    core: AgedCore,
) -> None:
    path, at = backup(core), core.now
    core.now += LATER
    core.release("1.1.0", plan("second", *PILOT_THEN_ALL))
    core.run()
    newest = retained(core)
    (before,) = core.desired().assignments
    restore(core, path, at)

    learn(core, newest)
    core.run()

    (after,) = core.desired().assignments
    assert core.rollout("second").phase is Phase.PAUSED
    assert before.offer is not None
    assert after.offer is not None
    assert after.offer.paused
    assert after.offer.waves == before.offer.waves
    assert after.current == before.current
    core.reconciler.order(
        "second", Trigger.RESUME, actor="operator:ada", reason="looked", now=core.now
    )
    assert core.rollout("second").phase is Phase.RUNNING


@pytest.mark.slow
def test_a_release_that_was_withdrawn_since_stays_withdrawn(core: AgedCore) -> None:
    core.release("1.1.0", plan("second"))
    complete(core, "second", "1.1.0")
    path, at = backup(core), core.now
    core.now += LATER
    core.trust.withdraw("1.1.0")
    assert core.submit("approval-vad").status == "accepted"
    core.run()
    newest = retained(core)
    restore(core, path, at)

    learn(core, newest)
    core.run()

    (assignment,) = core.desired().assignments
    assert assignment.current is not None
    assert assignment.current.version == "1.0.0"
    assert core.rollout("second").phase is not Phase.COMPLETED


@pytest.mark.slow
def test_a_rollout_that_was_undone_since_is_not_taken_up_again(core: AgedCore) -> None:
    core.release("1.1.0", plan("second"))
    complete(core, "second", "1.1.0")
    path, at = backup(core), core.now
    core.now += LATER
    core.reconciler.order("second", Trigger.UNDO, actor="operator:ada", reason="bad", now=core.now)
    newest = retained(core)
    restore(core, path, at)

    learn(core, newest)
    core.run()

    (assignment,) = core.desired().assignments
    assert assignment.current is not None
    assert assignment.current.version == "1.0.0"
    assert core.rollout("second").phase is Phase.ABORTED


@pytest.mark.slow
def test_a_rollout_that_ended_since_does_not_go_on(core: AgedCore) -> None:
    core.release("1.1.0", plan("second", *PILOT_THEN_ALL))
    core.run()
    path, at = backup(core), core.now
    core.now += LATER
    core.reconciler.order("second", Trigger.ABORT, actor="operator:ada", reason="x", now=core.now)
    newest = retained(core)
    restore(core, path, at)
    assert core.rollout("second").phase is Phase.RUNNING

    learn(core, newest)
    core.run()

    assert core.rollout("second").phase is Phase.ABORTED
    (assignment,) = core.desired().assignments
    assert assignment.offer is None


@pytest.mark.slow
def test_without_a_word_from_the_broker_counters_leap_and_rollouts_wait(core: AgedCore) -> None:
    core.release("1.1.0", plan("second", *PILOT_THEN_ALL))
    core.run()
    path, at = backup(core), core.now
    held = core.manifest().counter
    core.now += LATER
    restore(core, path, at)

    learn(core)
    core.run()

    assert core.manifest().counter > held + LATER.total_seconds()
    assert core.rollout("second").phase is Phase.PAUSED


@pytest.mark.slow
def test_devices_that_hold_a_newer_approval_are_told_nothing_until_it_is_handed_in(
    core: AgedCore,
) -> None:
    path, at = backup(core), core.now
    core.now += LATER
    core.release("1.1.0", plan("second"))
    core.release("1.2.0", plan("third"))
    versions = {role: version_of(core, role) for role in ("approval-vad", "release-vad")}
    restore(core, path, at)
    seen = {**versions, "timestamp": 40_000, "snapshot": 50_000}
    report = device(core, "dev-1").report(manifest_counter=900, trust_versions=seen)
    core.fleet.take(report, now=core.now)

    learned = learn(core, reports=1)
    core.run()

    assert highest_of(learned.behind) == versions
    assert learned.online["timestamp"][1] > 40_000
    assert learned.online["snapshot"][1] > 50_000
    assert not [row for row in core.outbox() if row.topic.endswith("/manifest")]
    assert core.manifest().counter > 900

    # CI and the approver hand in what they had signed: two versions at once, with all documents.
    assert core.submit("release-vad", "approval-vad").status == "accepted"
    core.run()
    assert [row for row in core.outbox() if row.topic.endswith("/manifest")]
    with core.store.read() as tx:
        assert still_behind(tx) == {}


def hold_back(core: AgedCore, device_name: str, lead: int) -> None:
    """A device that says it holds an approval so many versions beyond ours."""
    versions = {"approval-vad": version_of(core, "approval-vad") + lead}
    report = device(core, device_name).report(manifest_counter=1, trust_versions=versions)
    core.fleet.take(report, now=core.now)


@pytest.mark.slow
def test_revoking_the_one_device_that_lies_about_a_role_lets_its_class_go_on(
    core: AgedCore,
) -> None:
    path, at = backup(core), core.now
    restore(core, path, at)
    hold_back(core, "dev-2", behind.ROLE_LEAD_MAX)
    learned = learn(core, reports=1)
    core.run()
    assert not [row for row in core.outbox() if row.topic.endswith("/manifest")]
    assert "dev-2" in str(problem(CLASS, learned.behind))

    with core.store.transaction() as tx:
        devices.revoke(tx, "dev-2")
    core.run()

    assert [row for row in core.outbox() if row.topic.endswith("/manifest")]


@pytest.mark.slow
def test_what_honest_devices_hold_counts_beside_one_that_lies(core: AgedCore) -> None:
    path, at = backup(core), core.now
    restore(core, path, at)
    counter, approval = core.manifest().counter, version_of(core, "approval-vad")
    hold_back(core, "dev-1", 1)
    honest = device(core, "dev-1").report(
        manifest_counter=counter + 5000,
        trust_versions={"approval-vad": approval + 1, "timestamp": 400_000},
    )
    lie = device(core, "dev-2").report(
        manifest_counter=1 << 60,
        trust_versions={"approval-vad": approval + behind.ROLE_LEAD_MAX + 1, "timestamp": 1 << 60},
    )
    core.fleet.take(honest, lie, now=core.now)

    learned = learn(core, reports=2)

    assert learned.behind == {"approval-vad": {"dev-1": approval + 1}}
    assert 0 <= learned.manifests[CLASS][1] - (counter + 5000 + MARGIN_MIN) <= 1  # milliseconds
    assert learned.online["timestamp"][1] > 400_000


@pytest.mark.slow
def test_of_many_who_hold_a_role_the_highest_are_kept_and_the_others_are_not_forgotten(
    core: AgedCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(behind, "WITNESSES_MAX", 1)
    path, at = backup(core), core.now
    restore(core, path, at)
    hold_back(core, "dev-1", 1)
    hold_back(core, "dev-2", 9)
    held = version_of(core, "approval-vad")
    assert learn(core, reports=2).behind == {"approval-vad": {"dev-2": held + 9}}

    with core.store.transaction() as tx:
        devices.revoke(tx, "dev-2")

    with core.store.read() as tx:
        assert still_behind(tx) == {"approval-vad": held + 1}


def version_of(core: AgedCore, role: str) -> int:
    with core.store.read() as tx:
        return trust_roles.versions(tx)[role]


@pytest.mark.slow
def test_what_waited_for_the_broker_in_the_backup_is_never_sent(core: AgedCore) -> None:
    core.run()
    with core.store.transaction() as tx:
        outbox.put(tx, topic="t", payload=b"old", qos=1, retain=True, now=core.now)
    path, at = backup(core), core.now
    restore(core, path, at)

    learned = learn(core)

    assert learned.unsent >= 1
    assert not [row for row in core.outbox() if row.payload == b"old"]


@pytest.mark.slow
def test_the_audit_log_tells_of_it_and_goes_on_from_the_backup(core: AgedCore) -> None:
    path, at = backup(core), core.now
    restore(core, path, at)

    learn(core, retained(core))

    with core.store.read() as tx:
        assert audit.verify(tx) is None
        (entry,) = [row for row in audit.page(tx, limit=500) if row.action == "recovery.finish"]
        row = recoveries.newest(tx)
        assert recoveries.pending(tx) is None
    assert entry.details["begun_by"] == "local:ada"
    assert entry.details["manifests"][CLASS][0] < entry.details["manifests"][CLASS][1]
    assert row is not None
    assert row.learned["manifests"] == entry.details["manifests"]


@pytest.mark.slow
def test_a_device_that_forgot_what_we_lost_leaves_a_gap_that_is_told_and_nothing_double(
    core: AgedCore,
) -> None:
    """Its events 4 to 9 were acknowledged and deleted; the backup has those up to 3."""
    one = core.enrol("dev-3")
    core.fleet.take(one.numbered(1, 3), now=core.now)
    path, at = backup(core), core.now
    core.fleet.take(one.numbered(4, 9), now=core.now)
    restore(core, path, at)
    learn(core)

    core.fleet.take(one.hello(10, 12), now=core.now)
    core.fleet.take(one.numbered(10, 12), now=core.now)
    core.fleet.take(one.numbered(10, 12), now=core.now)

    with core.store.read() as tx:
        told = [row.sequence for row in events.page(tx, "dev-3", limit=500)]
        (lost,) = audit.page(tx, subject="dev-3", limit=10)
    assert told == [1, 2, 3, 10, 11, 12]
    assert lost.action == "device.rows_lost"
    assert (lost.details["from"], lost.details["to"]) == (4, 9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "payload", [b"", b"\xff" * 100, b"\x80", b"x" * 600 * 1024], ids=["empty", "bad", "map", "long"]
)
def test_a_retained_message_that_is_none_changes_nothing(core: AgedCore, payload: bytes) -> None:
    path, at = backup(core), core.now
    restore(core, path, at)
    topic = build(Channel.MANIFEST, fleet=FLEET, hardware_class=CLASS)

    learned = learn(core, Incoming(topic=topic, payload=payload, retain=True))

    assert learned.roles == {}
    assert core.rollout("first").phase is Phase.COMPLETED


@pytest.mark.slow
def test_a_manifest_that_another_ceremony_signed_is_not_believed(
    core: AgedCore, tmp_path: Path
) -> None:
    stranger = Core(tmp_path / "stranger")
    stranger.release("9.0.0", plan("evil"))
    stranger.run()
    path, at = backup(core), core.now
    restore(core, path, at)

    learned = learn(core, retained(stranger))

    assert (learned.roles, learned.releases, learned.rollouts) == ({}, [], [])
    assert core.rollout("first").phase is Phase.COMPLETED
    stranger.store.close()


@pytest.mark.slow
def test_one_device_that_claims_a_number_out_of_a_hat_is_not_believed(core: AgedCore) -> None:
    path, at = backup(core), core.now
    held = core.manifest().counter
    restore(core, path, at)
    report = device(core, "dev-1").report(
        manifest_counter=1 << 60, trust_versions={"timestamp": 1 << 60, "approval-vad": 1 << 60}
    )
    core.fleet.take(report, now=core.now)

    learned = learn(core, reports=1)

    assert held < learned.manifests[CLASS][1] <= held + MARGIN_MIN + 1
    assert learned.online["timestamp"][1] < 2 * MARGIN_MAX
    assert learned.behind == {}


def test_the_room_left_grows_with_the_age_of_the_backup_and_has_an_end(core: AgedCore) -> None:
    assert margin(core.now, core.now) == MARGIN_MIN
    assert margin(core.now - timedelta(hours=1), core.now) == MARGIN_MIN + 3600
    assert margin(core.now - timedelta(days=365), core.now) == MARGIN_MAX
    assert margin(core.now + timedelta(days=1), core.now) == MARGIN_MIN  # a clock was set back
    assert margin(None, core.now) == MARGIN_MAX
