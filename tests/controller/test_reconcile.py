"""From facts in the database to one signed retained message a class, and nothing else."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controller_core import EVERYBODY, PPM, Core, plan
from enrolled_fleet import CLASS, FLEET
from mailboat_agent.trust.role_versions import VERSION_STEP_MAX
from mailboat_controller import reconcile
from mailboat_controller.releases.counter_lead import (
    COUNTER_LEAD_MAX,
    COUNTER_LEAD_MIN,
    LEAD_REST,
    counter_lead,
)
from mailboat_controller.rollout.state import Phase, Trigger
from mailboat_controller.store import audit, manifests, rollouts
from mailboat_schemas.codec import decode
from mailboat_schemas.desired import FreshTimestamp, ManifestBundle
from mailboat_schemas.errors import Conflict, NotFound
from mailboat_schemas.events import EventKind
from mailboat_schemas.plan import PlanWave
from mailboat_schemas.trust import TrustView, accept_trust, open_desired

PILOT_THEN_ALL = (PlanWave(pilots=("dev-1",)), PlanWave(count_ppm=PPM, cap_ppm=PPM))


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    core = Core(tmp_path)
    yield core
    core.store.close()


def offered(core: Core) -> str | None:
    offer = core.assignment().offer
    return None if offer is None else offer.release.digest


class TestPublishing:
    def test_a_release_is_one_retained_message_a_class_whatever_the_size_of_the_fleet(
        self, core: Core
    ) -> None:
        for n in range(40):
            core.fleet.enrol(f"dev-{n}")
        core.run()
        core.empty_outbox()

        core.release("1.0.0", plan("first"))

        (row,) = core.outbox()
        assert row.topic == f"mb/1/{FLEET}/class/{CLASS}/manifest"
        assert (row.qos, row.retain) == (1, True)
        assert row.payload == core.manifest().bundle

    def test_looking_again_publishes_nothing(self, core: Core) -> None:
        core.fleet.enrol("dev-1")
        core.release("1.0.0", plan("first"))
        before = core.desired().counter

        for _ in range(3):
            core.now += timedelta(minutes=1)
            assert core.run().published.classes == ()

        assert core.desired().counter == before

    def test_a_class_without_releases_has_a_manifest_that_assigns_nothing(self, core: Core) -> None:
        core.run()

        assert core.desired().assignments == ()

    def test_a_device_accepts_what_is_published(self, tmp_path: Path) -> None:
        core = Core(tmp_path / "controller", now=datetime.now(UTC))
        core.fleet.enrol("dev-1")
        digest = core.release("1.0.0", plan("first"))
        bundle = decode(ManifestBundle, core.manifest().bundle)
        scratch = tmp_path / "scratch"
        scratch.mkdir()

        held = accept_trust(
            bundle.trust,
            factory_root=core.trust.factory_root,
            held={},
            models=["vad"],
            scratch=scratch,
        )
        view = TrustView(core.trust.factory_root, held)
        desired = open_desired(bundle, view, fleet=FLEET, hardware_class=CLASS)

        (assignment,) = desired.assignments
        assert assignment.offer is not None
        assert view.standing("vad", "1.0.0").may_install(assignment.offer.release.digest)
        assert set(bundle.documents) == {digest}

    def test_the_counter_goes_on_from_what_devices_have_seen_after_a_restored_backup(
        self, core: Core
    ) -> None:
        device = core.fleet.enrol("dev-1")
        core.run()
        core.now += LEAD_REST
        core.fleet.take(device.report(manifest_counter=40))

        assert core.run().published.classes == (CLASS,)
        assert core.desired().counter == 41
        assert core.run().published.classes == ()

    def test_a_device_that_makes_counters_up_does_not_make_us_send_to_its_class_each_time(
        self, core: Core
    ) -> None:
        device = core.fleet.enrol("dev-1")
        core.run()
        sent = 0
        for second in range(20):
            core.now += timedelta(minutes=2)
            counter = core.desired().counter + 7
            core.fleet.take(device.report(manifest_counter=counter, observed_at=second))
            sent += len(core.run().published.classes)

        assert sent == timedelta(minutes=40) // LEAD_REST

    def test_a_claim_counts_as_far_as_manifests_can_have_been_published_since(self) -> None:
        now = datetime(2026, 11, 21, 12, tzinfo=UTC)

        assert counter_lead(now, now) == COUNTER_LEAD_MIN
        assert counter_lead(now + timedelta(days=1), now) == COUNTER_LEAD_MIN
        assert counter_lead(now - timedelta(days=30), now) == COUNTER_LEAD_MIN + 30 * 8640
        assert counter_lead(now - timedelta(days=999), now) == COUNTER_LEAD_MAX
        assert counter_lead(None, now) == COUNTER_LEAD_MAX

    def test_a_device_that_lies_for_a_month_shuts_out_no_device_that_is_away(
        self, core: Core
    ) -> None:
        liar = core.fleet.enrol("dev-1")
        core.run()
        begun = core.desired().counter
        rests = 6
        for number in range(rests):
            core.now += LEAD_REST
            claimed = core.desired().counter + counter_lead(core.now - LEAD_REST, core.now)
            core.fleet.take(liar.report(manifest_counter=claimed, observed_at=number))
            core.run()
        gained = core.desired().counter - begun
        assert gained > rests * COUNTER_LEAD_MIN  # it is believed, as far as it may be

        a_month = timedelta(days=30) // (rests * LEAD_REST) * gained
        assert a_month < VERSION_STEP_MAX

        far = core.desired().counter + 10_000
        core.now += LEAD_REST
        core.fleet.take(liar.report(manifest_counter=far, observed_at=rests))
        core.run()
        assert core.desired().counter < far

    def test_what_really_changes_is_sent_at_once_and_counted_from_what_was_seen(
        self, core: Core
    ) -> None:
        device = core.fleet.enrol("dev-1")
        core.run()
        core.fleet.take(device.report(manifest_counter=40))

        core.release("1.0.0", plan("first"))

        assert core.desired().counter == 41

    def test_a_counter_out_of_a_hat_is_not_believed(self, core: Core) -> None:
        device = core.fleet.enrol("dev-1")
        core.run()
        core.fleet.take(device.report(manifest_counter=(1 << 62)))

        assert core.run().published.classes == ()

    def test_a_manifest_nobody_has_seen_yet_is_replaced_in_the_outbox(self, core: Core) -> None:
        core.fleet.enrol("dev-1")
        core.release("1.0.0", plan("first"))
        core.release("1.1.0", plan("second"))

        (row,) = core.outbox()
        assert row.payload == core.manifest().bundle

    def test_retained_manifests_are_queued_again_on_demand(self, core: Core) -> None:
        core.add_class("other")
        core.run()
        core.empty_outbox()

        assert core.reconciler.assert_retained(core.now) == 2
        assert {row.payload for row in core.outbox()} == {
            core.manifest().bundle,
            core.manifest("other").bundle,
        }


class TestRollout:
    def test_a_rollout_goes_from_pilot_to_everybody_to_current(self, core: Core) -> None:
        devices = [core.fleet.enrol(f"dev-{n}") for n in (1, 2, 3)]
        digest = core.release("1.0.0", plan("first", *PILOT_THEN_ALL))

        offer = core.assignment().offer
        assert offer is not None
        assert [wave.pilots for wave in offer.waves] == [("dev-1",)]

        core.tell(devices[0], EventKind.TRIAL_STARTED, digest)
        assert len(core.rollout("first").opened[CLASS]) == 1
        core.tell(devices[0], EventKind.COMMITTED, digest)
        offer = core.assignment().offer
        assert offer is not None
        assert [wave.upto for wave in offer.waves] == ["", "f" * 16]

        core.tell(devices[1], EventKind.COMMITTED, digest)
        core.tell(devices[2], EventKind.COMMITTED, digest)

        assert core.rollout("first").phase is Phase.COMPLETED
        assignment = core.assignment()
        assert assignment.offer is None
        assert assignment.current is not None
        assert assignment.current.digest == digest

    def test_a_look_takes_each_rollout_so_many_steps_and_the_next_one_goes_on(
        self, core: Core, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reconcile, "PASSES_MAX", 1)
        core.fleet.enrol("dev-1")
        core.release("1.0.0", plan("first", *PILOT_THEN_ALL))
        assert core.rollout("first").phase is Phase.RUNNING
        assert core.rollout("first").opened == {}

        assert core.run().moved == ("first",)
        assert len(core.rollout("first").opened[CLASS]) == 1
        assert core.run().moved == ()

    def test_one_failure_takes_the_offer_back_with_one_message(self, core: Core) -> None:
        devices = [core.fleet.enrol(f"dev-{n}") for n in (1, 2)]
        digest = core.release("1.0.0", plan("first"))
        core.empty_outbox()

        core.tell(devices[1], EventKind.ROLLED_BACK, digest, because="p95 was 80 ms")

        assert core.rollout("first").phase is Phase.HALTED
        assert core.assignment().offer is None
        assert len(core.outbox()) == 1
        with core.store.read() as tx:
            moves = [row for row in audit.page(tx) if row.action.startswith("rollout.")]
            assert audit.verify(tx) is None
        assert moves[-1].reason == "failed on dev-2: p95 was 80 ms"

    def test_a_late_failure_brings_the_release_before_it_back(self, core: Core) -> None:
        device = core.fleet.enrol("dev-1")
        old = core.release("1.0.0", plan("first"))
        core.tell(device, EventKind.COMMITTED, old)
        new = core.release("1.1.0", plan("second"))
        core.tell(device, EventKind.COMMITTED, new)
        current = core.assignment().current
        assert current is not None
        assert current.digest == new
        assert set(decode(ManifestBundle, core.manifest().bundle).documents) == {old, new}

        core.tell(device, EventKind.ROLLED_BACK, new)

        assert core.rollout("second").phase is Phase.HALTED
        current = core.assignment().current
        assert current is not None
        assert current.digest == old

    def test_a_withdrawn_release_is_current_nowhere(self, core: Core) -> None:
        device = core.fleet.enrol("dev-1")
        digest = core.release("1.0.0", plan("first"))
        core.tell(device, EventKind.COMMITTED, digest)

        core.trust.withdraw("1.0.0")
        assert core.submit("approval-vad").status == "accepted"

        assert core.rollout("first").phase is Phase.HALTED
        assert core.assignment().current is None

    def test_a_newer_rollout_takes_the_place_of_one_that_still_runs(self, core: Core) -> None:
        core.fleet.enrol("dev-1")
        core.release("1.0.0", plan("first"))
        new = core.release("1.1.0", plan("second"))

        assert core.rollout("first").phase is Phase.SUPERSEDED
        assert core.rollout("first").because == "superseded by rollout second"
        offer = core.assignment().offer
        assert offer is not None
        assert offer.release.digest == new

    def test_devices_of_a_superseded_rollout_may_keep_its_release_until_bad_news_of_it(
        self, core: Core
    ) -> None:
        first, second = core.fleet.enrol("dev-1"), core.fleet.enrol("dev-2")
        done = core.release("0.9.0", plan("done"))
        for device in (first, second):
            core.tell(device, EventKind.COMMITTED, done)
        old = core.release("1.0.0", plan("first"))
        core.tell(first, EventKind.COMMITTED, old)
        core.release("1.1.0", plan("second"))

        assert [ref.digest for ref in core.assignment().kept] == [old]

        core.tell(second, EventKind.ROLLED_BACK, old)

        assert core.rollout("first").phase is Phase.HALTED
        assert core.assignment().kept == ()

    def test_nothing_older_than_the_current_release_is_kept(self, core: Core) -> None:
        device = core.fleet.enrol("dev-1")
        core.release("1.0.0", plan("first"))
        new = core.release("1.1.0", plan("second"))
        core.tell(device, EventKind.COMMITTED, new)

        assert core.rollout("second").phase is Phase.COMPLETED
        assert core.assignment().kept == ()

    def test_a_newer_rollout_that_lets_nobody_in_yet_takes_the_place_of_nothing(
        self, core: Core
    ) -> None:
        core.fleet.enrol("dev-1")
        old = core.release("1.0.0", plan("first"))
        tomorrow = int((core.now + timedelta(days=1)).timestamp())
        new = core.release(
            "1.1.0", plan("second", EVERYBODY.model_copy(update={"earliest": tomorrow}))
        )

        assert core.rollout("second").phase is Phase.RUNNING
        assert core.rollout("first").phase is Phase.RUNNING
        assert offered(core) == old

        core.now += timedelta(days=1)
        core.run()

        assert core.rollout("first").phase is Phase.SUPERSEDED
        assert offered(core) == new

    def test_an_expired_plan_is_never_started_and_disturbs_nothing(self, core: Core) -> None:
        core.fleet.enrol("dev-1")
        old = core.release("1.0.0", plan("first"))
        core.release("1.1.0", plan("second", expires=int(core.now.timestamp())))

        assert core.rollout("second").phase is Phase.ABORTED
        assert offered(core) == old

    def test_a_rollout_approved_before_its_devices_were_enrolled_opens_for_them(
        self, core: Core
    ) -> None:
        core.fleet.enrol("desk", labels={"ring": "desk"})
        lab = EVERYBODY.model_copy(update={"ring": {"ring": "lab"}})
        core.release("1.0.0", plan("first", lab))
        assert core.rollout("first").waves_open == 0

        core.fleet.enrol("late", labels={"ring": "lab"})
        core.run()

        assert core.rollout("first").opened[CLASS][0].roster == 2

    def test_a_device_enrolled_after_completion_gets_what_is_current(self, core: Core) -> None:
        digest = core.release("1.0.0", plan("first"))
        core.tell(core.fleet.enrol("dev-1"), EventKind.COMMITTED, digest)
        core.empty_outbox()

        core.fleet.enrol("late")
        core.run()

        current = core.assignment().current
        assert current is not None
        assert current.digest == digest
        assert core.outbox() == []  # it is retained already

    def test_two_models_of_one_class_go_their_own_ways(self, tmp_path: Path) -> None:
        core = Core(tmp_path / "two", models=("vad", "wake"))
        device = core.fleet.enrol("dev-1")
        vad = core.release("1.0.0", plan("vad-1"))
        wake = core.release("1.0.0", plan("wake-1"), model="wake")
        core.empty_outbox()

        core.tell(device, EventKind.ROLLED_BACK, vad)

        assert core.rollout("vad-1").phase is Phase.HALTED
        assert core.rollout("wake-1").phase is Phase.RUNNING
        assert len(core.outbox()) == 1
        offers = {each.model: each.offer for each in core.desired().assignments}
        assert offers["vad"] is None
        assert offers["wake"] is not None
        assert offers["wake"].release.digest == wake
        core.store.close()

    def test_a_class_without_a_variant_is_told_nothing_of_a_release(self, core: Core) -> None:
        core.add_class("other")
        core.fleet.enrol("dev-1")
        core.fleet.enrol("cam-1", hardware_class="other")

        core.release("1.0.0", plan("first"))

        assert core.desired("other").assignments == ()
        assert set(core.reconciler.status("first")["classes"]) == {CLASS}

    def test_a_rollout_of_another_class_does_not_supersede(self, core: Core) -> None:
        core.add_class("other")
        core.fleet.enrol("dev-1")
        core.release("1.0.0", plan("first"))
        core.release("1.1.0", plan("second", hardware_classes=("other",)))

        assert core.rollout("first").phase is Phase.RUNNING

    def test_a_release_that_failed_may_be_tried_again_under_a_new_name(self, core: Core) -> None:
        device = core.fleet.enrol("dev-1")
        digest = core.release("1.0.0", plan("first"))
        core.tell(device, EventKind.TRIAL_FAILED, digest)
        assert core.rollout("first").phase is Phase.HALTED

        core.trust.release("1.0.0", plan("again"))
        reply = core.submit("approval-vad")

        assert reply.rollouts == ("again",)
        assert core.rollout("again").phase is Phase.RUNNING
        assert core.assignment().retry_epoch == 1
        core.tell(device, EventKind.COMMITTED, digest, retry_epoch=1)
        assert core.rollout("again").phase is Phase.COMPLETED

    def test_a_device_cannot_use_up_the_retry_epochs(self, core: Core) -> None:
        device = core.fleet.enrol("dev-1")
        digest = core.release("1.0.0", plan("first"))
        core.tell(device, EventKind.TRIAL_FAILED, digest, retry_epoch=(1 << 63) - 1)
        assert core.rollout("first").phase is Phase.HALTED

        core.trust.release("1.0.0", plan("again"))
        assert core.submit("approval-vad").status == "accepted"

        assert core.rollout("again").retry_epoch == 1

    def test_verdicts_of_an_earlier_rollout_open_no_wave_of_a_later_one(self, core: Core) -> None:
        pilot, other = core.fleet.enrol("dev-1"), core.fleet.enrol("dev-2")
        digest = core.release("1.0.0", plan("first", *PILOT_THEN_ALL))
        core.tell(pilot, EventKind.COMMITTED, digest)
        core.tell(other, EventKind.COMMITTED, digest)
        assert core.rollout("first").phase is Phase.COMPLETED
        core.trust.withdraw("1.0.0")
        core.submit("approval-vad")

        core.trust.release("1.0.0", plan("again", *PILOT_THEN_ALL))
        core.submit("approval-vad")
        opened = core.rollout("again").waves_open
        core.tell(pilot, EventKind.COMMITTED, digest, retry_epoch=1)

        assert opened == 1
        assert core.rollout("again").waves_open == 2
        assert core.rollout("again").phase is Phase.RUNNING

    def test_devices_that_run_a_release_already_count_as_good_when_it_is_tried_again(
        self, core: Core
    ) -> None:
        good, bad = core.fleet.enrol("good"), core.fleet.enrol("bad")
        digest = core.release("1.0.0", plan("first"))
        core.tell(good, EventKind.COMMITTED, digest)
        core.tell(bad, EventKind.TRIAL_FAILED, digest)
        running = {"model": "vad", "phase": "committed", "serving_digest": digest}
        core.fleet.take(good.report(models=[running]))

        core.trust.release("1.0.0", plan("again"))
        core.submit("approval-vad")
        core.tell(bad, EventKind.COMMITTED, digest, retry_epoch=1)

        assert core.rollout("again").phase is Phase.COMPLETED

    def test_devices_of_a_class_that_came_later_join_with_the_next_wave(self, core: Core) -> None:
        first = core.fleet.enrol("dev-1")
        digest = core.release("1.0.0", plan("first", *PILOT_THEN_ALL))
        core.fleet.enrol("late")

        core.tell(first, EventKind.COMMITTED, digest)

        assert core.rollout("first").opened[CLASS][1].roster == 2

    def test_a_million_looks_move_nothing_while_devices_are_silent(self, core: Core) -> None:
        core.fleet.enrol("dev-1")
        core.release("1.0.0", plan("first"))

        for _ in range(5):
            core.now += timedelta(days=400)
            core.run()

        assert core.rollout("first").phase is Phase.RUNNING


class TestOrders:
    def test_a_paused_rollout_keeps_its_offer_marked_as_paused(self, core: Core) -> None:
        core.fleet.enrol("dev-1")
        core.release("1.0.0", plan("first"))

        core.reconciler.order(
            "first", Trigger.PAUSE, actor="operator:alice", reason="storm", now=core.now
        )

        offer = core.assignment().offer
        assert offer is not None
        assert offer.paused
        assert core.rollout("first").because == "pause by operator:alice: storm"
        with core.store.read() as tx:
            entry = next(row for row in audit.page(tx) if row.action == "rollout.pause")
        assert (entry.actor, entry.reason) == ("operator:alice", "storm")

    def test_a_resumed_rollout_goes_on_where_it_was(self, core: Core) -> None:
        core.fleet.enrol("dev-1")
        core.release("1.0.0", plan("first"))
        for trigger in (Trigger.PAUSE, Trigger.RESUME):
            core.reconciler.order("first", trigger, actor="a", reason="r", now=core.now)

        offer = core.assignment().offer
        assert offer is not None
        assert not offer.paused
        assert len(offer.waves) == 1

    def test_an_aborted_rollout_is_offered_to_nobody(self, core: Core) -> None:
        core.fleet.enrol("dev-1")
        core.release("1.0.0", plan("first"))

        core.reconciler.order("first", Trigger.ABORT, actor="a", reason="r", now=core.now)

        assert core.assignment().offer is None

    def test_a_plan_with_manual_start_waits_for_the_order(self, core: Core) -> None:
        core.fleet.enrol("dev-1")
        core.release("1.0.0", plan("first", manual_start=True))
        assert core.desired().assignments == ()

        core.reconciler.order("first", Trigger.START, actor="a", reason="go", now=core.now)

        assert core.assignment().offer is not None

    def test_orders_that_only_the_controller_gives_are_refused(self, core: Core) -> None:
        core.release("1.0.0", plan("first"))

        with pytest.raises(Conflict):
            core.reconciler.order("first", Trigger.FINISH, actor="a", reason="r", now=core.now)

    def test_an_unknown_rollout_is_not_found(self, core: Core) -> None:
        with pytest.raises(NotFound):
            core.reconciler.order("none", Trigger.PAUSE, actor="a", reason="r", now=core.now)


class TestStatus:
    def test_the_counts_people_see_add_up(self, core: Core) -> None:
        devices = [core.fleet.enrol(f"dev-{n}") for n in (1, 2, 3)]
        digest = core.release("1.0.0", plan("first", *PILOT_THEN_ALL))
        core.tell(devices[0], EventKind.COMMITTED, digest)
        core.tell(devices[1], EventKind.TRIAL_STARTED, digest)

        status = core.reconciler.status("first")

        counted = status["classes"][CLASS]
        assert {k: counted[k] for k in ("devices", "ok", "in_progress", "waiting")} == {
            "devices": 3,
            "ok": 1,
            "in_progress": 1,
            "waiting": 1,
        }
        assert [wave["devices"] for wave in counted["waves"]] == [1, 2]
        assert status["waves_open"] == 2

    def test_a_list_of_rollouts_reads_no_device(self, core: Core) -> None:
        core.fleet.enrol("dev-1")
        core.release("1.0.0", plan("first"))

        (row,) = core.reconciler.summaries()

        assert (row["name"], row["phase"], row["waves_open"]) == ("first", "running", 1)
        assert "classes" not in row


class TestFreshness:
    def test_a_day_later_only_the_timestamp_is_sent(self, core: Core) -> None:
        core.run()
        before = core.manifest()
        core.empty_outbox()

        core.now += timedelta(hours=25)
        done = core.run()

        assert done.signed == ("timestamp",)
        (row,) = core.outbox()
        assert row.topic == f"mb/1/{FLEET}/class/{CLASS}/fresh"
        fresh = decode(FreshTimestamp, row.payload)
        after = core.manifest()
        bundle = decode(ManifestBundle, after.bundle)
        assert bundle.trust["timestamp.json"] == fresh.timestamp
        assert (after.counter, after.content_digest) == (before.counter, before.content_digest)
        assert after.etag != before.etag

    def test_a_fortnight_later_the_snapshot_is_signed_again_and_sent_in_a_bundle(
        self, core: Core
    ) -> None:
        core.run()

        core.now += timedelta(days=16)
        done = core.run()

        assert done.signed == ("snapshot", "timestamp")
        assert done.published.classes == (CLASS,)

    def test_a_submission_changes_the_snapshot_so_every_class_gets_it(self, core: Core) -> None:
        core.add_class("other")
        core.run()
        before = core.desired("other").counter

        core.release("1.0.0", plan("first"))

        assert core.desired("other").counter == before + 1


def test_everything_is_recorded_together_or_not_at_all(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = core.fleet.enrol("dev-1")
    digest = core.release("1.0.0", plan("first"))
    core.fleet.take(device.tells(1, EventKind.COMMITTED, digest=digest))

    def power_cut(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(manifests, "put", power_cut)
        with pytest.raises(KeyboardInterrupt):
            core.run()
    assert core.rollout("first").phase is Phase.RUNNING
    with core.store.read() as tx:
        assert rollouts.assignments(tx)[0].current is None

    core.run()
    assert core.rollout("first").phase is Phase.COMPLETED
    assert core.assignment().current is not None
