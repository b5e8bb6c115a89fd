"""What the controller publishes of withdrawals, fallbacks and failure modes, and remembers."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from controller_core import Core, plan
from mailboat_controller.releases.standing import ReleaseStanding, reject, standings
from mailboat_controller.rollout.members import ROSTER_MIN
from mailboat_controller.rollout.state import Phase
from mailboat_controller.store import audit, classes, releases
from mailboat_controller.trust import held_trust
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.desired import ManifestBundle
from mailboat_schemas.documents.failure_mode import FailureMode
from mailboat_schemas.errors import Conflict
from mailboat_schemas.submission import Submission
from trust_fleet import CLASS, FLEET


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    core = Core(tmp_path)
    yield core
    core.store.close()


def documents(core: Core) -> set[str]:
    return set(decode(ManifestBundle, core.manifest().bundle).documents)


def standing_of(core: Core, version: str) -> ReleaseStanding:
    with core.store.read() as tx:
        row = releases.by_version(tx, "vad", version)
        assert row is not None
        return standings(tx, held_trust.read(tx), [row])[row.digest].standing


def test_the_failure_mode_of_a_class_is_told_to_it_and_told_again_when_it_changes(
    core: Core,
) -> None:
    core.run()
    assert core.desired().failure_mode is FailureMode.FAIL_SAFE
    before = core.manifest().counter

    with core.store.transaction() as tx:
        document = classes.get(tx, CLASS)
        closed = document.spec.model_copy(update={"failure_mode": FailureMode.FAIL_CLOSED})
        classes.put(tx, document.model_copy(update={"spec": closed}), core.now)
    core.run()

    assert core.desired().failure_mode is FailureMode.FAIL_CLOSED
    assert core.manifest().counter == before + 1


def test_the_document_of_an_approved_fallback_travels_with_the_release_that_names_it(
    core: Core,
) -> None:
    core.fleet.enrol("dev-1")
    fallback = core.release("1.0.0", plan("first"))
    core.trust.release("2.0.0", plan("second"), fallback="1.0.0")
    core.submit("release-vad", "approval-vad")

    assert fallback in documents(core)

    core.trust.withdraw("1.0.0")
    core.submit("approval-vad")

    assert fallback not in documents(core)


def test_a_withdrawal_is_one_manifest_with_a_higher_counter_and_never_an_empty_one(
    core: Core,
) -> None:
    core.fleet.enrol("dev-1")
    core.release("1.0.0", plan("first"))
    before = core.manifest().counter
    core.empty_outbox()

    core.trust.withdraw("1.0.0")
    core.submit("approval-vad")

    assert core.rollout("first").phase is Phase.HALTED
    assert core.manifest().counter == before + 1
    (sent,) = [row for row in core.outbox() if row.topic.endswith("/manifest")]
    assert sent.payload
    assert sent.retain


def test_a_withdrawal_is_remembered_with_who_signed_and_why(core: Core) -> None:
    core.release("1.0.0", plan("first"))
    core.trust.withdraw("1.0.0")
    roles = {"approval-vad": core.trust.roles["approval-vad"]}
    submission = Submission(fleet=FLEET, roles=roles, reason="it mishears")

    core.admission.submit(encode(submission), "approver:paul", core.now)

    assert standing_of(core, "1.0.0") is ReleaseStanding.WITHDRAWN
    with core.store.read() as tx:
        (entry,) = audit.about(tx, ["vad@1.0.0"], ["release.withdraw"])
        assert audit.verify(tx) is None
    assert (entry.actor, entry.reason) == ("approver:paul", "it mishears")
    assert entry.details["signed_by"] != []


def test_what_was_withdrawn_may_be_approved_again(core: Core) -> None:
    core.fleet.enrol("dev-1")
    core.release("1.0.0", plan("first"))
    core.trust.withdraw("1.0.0")
    core.submit("approval-vad")
    core.now += timedelta(minutes=1)

    core.trust.release("1.0.0", plan("again"))
    reply = core.submit("release-vad", "approval-vad")

    assert reply.status == "accepted", reply
    assert standing_of(core, "1.0.0") is ReleaseStanding.APPROVED
    assert core.rollout("again").phase is Phase.RUNNING
    offer = core.assignment().offer
    assert offer is not None
    assert offer.release.version == "1.0.0"


def test_a_no_is_recorded_and_overruled_by_an_approval_alone(core: Core) -> None:
    core.trust.release("1.0.0", plan("first"), approve=False)
    core.submit("release-vad")
    assert standing_of(core, "1.0.0") is ReleaseStanding.RELEASED

    with core.store.transaction() as tx:
        row = releases.by_version(tx, "vad", "1.0.0")
        assert row is not None
        trust = held_trust.read(tx)
        reject(tx, trust, row, actor="approver:paul", reason="biased", now=core.now)

    assert standing_of(core, "1.0.0") is ReleaseStanding.REJECTED
    core.trust.release("1.0.0", plan("first"))
    core.submit("release-vad", "approval-vad")
    assert standing_of(core, "1.0.0") is ReleaseStanding.APPROVED
    with core.store.transaction() as tx, pytest.raises(Conflict, match="is approved"):
        reject(tx, held_trust.read(tx), row, actor="approver:paul", reason="late", now=core.now)


def test_what_ci_takes_off_its_list_is_unlisted_and_an_approval_holds_all_the_same(
    core: Core,
) -> None:
    core.trust.release("1.0.0", approve=False)
    core.submit("release-vad")
    core.trust.unlist("1.0.0")
    core.submit("release-vad")

    assert standing_of(core, "1.0.0") is ReleaseStanding.UNLISTED


def test_no_wave_that_was_open_says_that_it_was_left_out(core: Core) -> None:
    core.add_class("empty")
    core.fleet.enrol("dev-1")
    core.release("1.0.0", plan("first"))

    opened = core.rollout("first").opened

    assert all(wave.roster >= ROSTER_MIN for waves in opened.values() for wave in waves)
