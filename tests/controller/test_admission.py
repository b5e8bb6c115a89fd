"""A submission is taken whole or not at all, once, and answered to whoever sent it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from controller_core import EVERYBODY, Core, plan
from enrolled_fleet import FLEET
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.releases.admission import REFUSALS_AUDITED_PER_MINUTE
from mailboat_controller.rollout.state import Phase
from mailboat_controller.store import audit, credentials, releases, rollouts
from mailboat_schemas.events import EventKind
from mailboat_schemas.plan import PlanWave
from mailboat_schemas.topics import Channel, build

REPLY = build(Channel.REPLY, fleet=FLEET, pipeline="build", job="j1")


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    core = Core(tmp_path)
    core.fleet.enrol("dev-1")
    yield core
    core.store.close()


def message(core: Core, *, reply_to: str | None = REPLY) -> Incoming:
    return Incoming(
        topic=build(Channel.SUBMIT, fleet=FLEET, pipeline="build"),
        payload=core.submission("release-vad", "approval-vad"),
        response_topic=reply_to,
        correlation_data=b"42",
    )


def replies(core: Core) -> list[tuple[str, str, bytes | None]]:
    return [
        (row.topic, json.loads(row.payload)["status"], row.correlation_data)
        for row in core.outbox()
        if not row.retain
    ]


def test_an_accepted_submission_makes_release_and_rollout_and_starts_it(core: Core) -> None:
    core.trust.release("1.0.0", plan("first"))

    reply = core.submit("release-vad", "approval-vad")

    assert (reply.status, reply.releases, reply.rollouts) == (
        "accepted",
        ("vad@1.0.0",),
        ("first",),
    )
    assert core.rollout("first").phase is Phase.RUNNING


def test_the_same_bytes_again_change_nothing_and_get_the_same_answer(core: Core) -> None:
    core.trust.release("1.0.0", plan("first"))
    content = core.submission("release-vad", "approval-vad")
    first = core.admission.submit(content, "ci:build", core.now)
    counter = core.desired().counter

    assert core.admission.submit(content, "ci:build", core.now) == first
    assert core.desired().counter == counter


def test_a_submission_whose_artifacts_are_missing_may_come_again(core: Core) -> None:
    core.artifacts.path("ab" * 32).unlink()
    core.trust.release("1.0.0", plan("first"))

    early = core.submit("release-vad", "approval-vad")
    core.put_artifact()
    late = core.submit("release-vad", "approval-vad")

    assert (early.status, early.missing_artifacts) == ("retry", ("ab" * 32,))
    assert late.status == "accepted"


def test_bytes_that_are_no_submission_are_rejected_and_written_down(core: Core) -> None:
    reply = core.admission.submit(b"nonsense", "ci:build", core.now)

    assert (reply.status, reply.code) == ("rejected", "E-PAYLOAD-MALFORMED")
    with core.store.read() as tx:
        entry = audit.page(tx)[-1]
    assert (entry.actor, entry.action) == ("ci:build", "submission.refuse")


def test_a_rollout_name_of_another_release_rejects_all_of_it(core: Core) -> None:
    core.release("1.0.0", plan("first"))
    core.trust.release("1.1.0", plan("first"))

    reply = core.submit("release-vad", "approval-vad")

    assert (reply.status, reply.code) == ("rejected", "E-CONFLICT")
    with core.store.read() as tx:
        assert [row.version for row in releases.every(tx)] == ["1.0.0"]
        assert len(rollouts.every(tx)) == 1


def test_a_new_plan_under_the_same_name_is_followed(core: Core) -> None:
    core.release("1.0.0", plan("first"))
    core.trust.release("1.0.0", plan("first", expires=1 << 37))

    reply = core.submit("approval-vad")

    assert reply.rollouts == ()
    assert reply.reasons == ("rollout first goes on with the new plan",)
    assert core.rollout("first").plan.expires == 1 << 37


def test_a_new_plan_is_in_the_audit_log(core: Core) -> None:
    core.release("1.0.0", plan("first"))
    core.trust.release("1.0.0", plan("first", expires=1 << 37))
    core.submit("approval-vad")

    with core.store.read() as tx:
        (entry,) = [row for row in audit.page(tx, limit=500) if row.action == "rollout.plan"]
    assert (entry.subject, entry.actor) == ("first", "ci:build")


def test_a_completed_rollout_keeps_its_plan_and_takes_no_class_in(core: Core) -> None:
    pilot = core.fleet.enrol("pilot")
    digest = core.release("1.0.0", plan("first", PlanWave(pilots=("pilot",))))
    core.tell(pilot, EventKind.COMMITTED, digest)
    assert core.rollout("first").phase is Phase.COMPLETED

    core.trust.release("1.0.0", plan("first", expires=1 << 37))
    reply = core.submit("approval-vad")

    assert reply.status == "accepted"
    (note,) = reply.reasons
    assert note.startswith("rollout first is completed and keeps its plan; approve under a new")
    assert core.rollout("first").plan.expires == 0


def test_changing_the_ring_of_an_open_wave_halts_it_before_anybody_sees_it(core: Core) -> None:
    lab = EVERYBODY.model_copy(update={"ring": {"ring": "lab"}})
    core.fleet.enrol("lab-1", labels={"ring": "lab"})
    core.release("1.0.0", plan("first", lab))
    assert core.assignment().offer is not None

    core.trust.release("1.0.0", plan("first"))  # everybody, at the width counted for the lab
    reply = core.submit("approval-vad")

    assert core.rollout("first").phase is Phase.HALTED
    assert core.assignment().offer is None
    assert reply.reasons == (
        "rollout first was halted: the approver changed the ring of a wave that is open",
    )


def test_the_answer_goes_to_the_response_topic_with_its_correlation_data(core: Core) -> None:
    core.trust.release("1.0.0", plan("first"))

    core.admission.submit_message(message(core), core.now)

    assert replies(core) == [(REPLY, "accepted", b"42")]


@pytest.mark.parametrize(
    "elsewhere",
    [
        None,
        build(Channel.REPLY, fleet=FLEET, pipeline="other", job="j1"),
        build(Channel.REPLY, fleet="other", pipeline="build", job="j1"),
        build(Channel.MANIFEST, fleet=FLEET, hardware_class="kiosk-x86"),
        "anything/at/all",
    ],
)
def test_nobody_makes_us_publish_anywhere_else(core: Core, elsewhere: str | None) -> None:
    core.trust.release("1.0.0", plan("first"))

    reply = core.admission.submit_message(message(core, reply_to=elsewhere), core.now)

    assert reply.status == "accepted"
    assert replies(core) == []


def test_a_submission_in_the_name_of_no_pipeline_is_refused_unread(core: Core) -> None:
    """A device may write to the submit topic of its own name; its broker cannot know better."""
    core.trust.release("1.0.0", plan("first"))
    submission = message(core)
    topic = build(Channel.SUBMIT, fleet=FLEET, pipeline="dev-1")

    reply = core.admission.submit_message(replace(submission, topic=topic), core.now)

    assert (reply.status, reply.code) == ("rejected", "E-NOT-PERMITTED")
    with core.store.read() as tx:
        assert releases.every(tx) == ()


def test_a_revoked_pipeline_hands_in_nothing_more(core: Core) -> None:
    core.trust.release("1.0.0", plan("first"))
    with core.store.transaction() as tx:
        credentials.revoke(tx, name="build", kind="ci")

    reply = core.admission.submit_message(message(core), core.now)

    assert (reply.status, reply.code) == ("rejected", "E-NOT-PERMITTED")
    assert replies(core) == [(REPLY, "rejected", b"42")]


def test_a_broker_that_makes_up_pipelines_does_not_fill_the_audit_log(core: Core) -> None:
    """A stolen broker can publish on every submit topic there is, as fast as we read."""
    for number in range(3 * REFUSALS_AUDITED_PER_MINUTE):
        topic = build(Channel.SUBMIT, fleet=FLEET, pipeline=f"made-up-{number}")
        reply = core.admission.submit_message(Incoming(topic=topic, payload=b"x"), core.now)
        assert reply.code == "E-NOT-PERMITTED"
    core.admission.submit(b"x", "ci:build", core.now)  # refused too, but of somebody we know

    with core.store.read() as tx:
        entries = [each for each in audit.page(tx, limit=500) if each.action == "submission.refuse"]
    assert REFUSALS_AUDITED_PER_MINUTE < len(entries) <= REFUSALS_AUDITED_PER_MINUTE + 5
    assert entries[-1].details["left_out_before"] > REFUSALS_AUDITED_PER_MINUTE
