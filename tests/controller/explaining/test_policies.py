"""Signed policies in the controller: taken in, explained, and asked about stale devices."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from controller_core import Core, plan
from enrolled_fleet import CLASS, FLEET
from mailboat_controller.explaining.explain import Evidence, ExplainedModel, explain_device
from mailboat_controller.explaining.plan import forecast
from mailboat_controller.explaining.selection import select
from mailboat_controller.explaining.staleness import stale_models
from mailboat_controller.presence import Reach
from mailboat_controller.rollout_facts import summary
from mailboat_controller.store import device_signs, devices, rollouts
from mailboat_schemas.codec import encode
from mailboat_schemas.documents.policy import PolicyDocument
from mailboat_schemas.documents.rollout import Rollout
from mailboat_schemas.reports import ModelPhase, ReportedFacts, ReportedModel, ReportedState
from mailboat_schemas.selectors import parse
from mailboat_schemas.submission import Submission, SubmissionReply
from signed_policies import policy_document, sign_policy, window_in
from trust_fleet import MODEL

EVERYBODY = {"count_ppm": 1_000_000, "cap_ppm": 1_000_000}


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    core = Core(tmp_path)
    core.fleet.enrol("dev-1", labels={"ring": "canary"})
    core.run()
    yield core
    core.store.close()


def signed(core: Core, document: PolicyDocument) -> SubmissionReply:
    sign_policy(core.trust, document)
    content = encode(
        Submission(
            fleet=FLEET,
            roles={"policy": core.trust.roles["policy"]},
            documents=core.trust.documents,
            reason="opening hours",
        )
    )
    reply = core.admission.submit(content, "approver:ana", core.now)
    core.run()
    return reply


def release(core: Core, version: str, security_version: int = 0, **more: Any) -> str:
    core.trust.now = core.now
    rollout = plan(f"r{version.replace('.', '-')}", EVERYBODY)
    digest = core.trust.release(version, rollout, security_version=security_version, **more)
    assert core.submit(f"release-{MODEL}", f"approval-{MODEL}").status == "accepted"
    core.run()
    return digest


def reports(
    core: Core,
    version: str | None,
    digest: str | None,
    *,
    switched_at: int = 0,
    stale_since: int = 0,
    stopped: tuple[str | None, str | None] = (None, None),
) -> None:
    model = ReportedModel(
        model=MODEL,
        phase=ModelPhase.COMMITTED,
        serving_version=version,
        serving_digest=digest,
        switched_at=switched_at,
        stale_since=stale_since,
        stopped_version=stopped[0],
        stopped_digest=stopped[1],
    )
    report = ReportedState(
        fleet=FLEET,
        device="dev-1",
        hardware_class=CLASS,
        site="-",
        session=1,
        observed_at=int(core.now.timestamp() * 1000),
        manifest_counter=1,
        models=(model,),
        facts=ReportedFacts(
            runtime_version="1.31.1",
            providers=("CPUExecutionProvider",),
            memory_budget_bytes=1 << 30,
            disk_free_bytes=1 << 30,
            enrolment_number=1,
        ),
    )
    with core.store.transaction() as tx:
        device_signs.set_report(tx, report, at=core.now)


def test_what_explain_says_of_a_window_is_what_was_signed(core: Core) -> None:
    reply = signed(core, policy_document({"windows": [window_in(core.now, 3)]}))
    assert reply.status == "accepted", reply.reasons
    digest = release(core, "1.0.0")
    release(core, "1.1.0")
    reports(core, "1.0.0", digest)

    with core.store.read() as tx:
        (model,) = explain_device(Evidence(tx, core.now), "dev-1").models
    (offered,) = (each for each in model.releases if each.ref.version == "1.1.0")
    (window,) = (check for check in offered.explained.checks if check.name == "window")
    opens = core.now + timedelta(hours=3)
    assert window.passed is False
    assert f"{opens:%Y-%m-%d %H:%M} UTC" in window.because


@pytest.mark.parametrize(("download", "move"), [("anytime", "fetches"), ("in-window", "stays")])
def test_a_device_that_lacks_files_is_said_to_fetch_them_ahead_where_it_may(
    core: Core, download: str, move: str
) -> None:
    signed(core, policy_document({"windows": [window_in(core.now, 3)], "download": download}))
    digest = release(core, "1.0.0")
    other = {"path": "m.onnx", "role": "model", "sha256": "cd" * 32, "length": 4}
    variant = {
        "hardware_classes": [CLASS],
        "files": [other],
        "runtime": {"version": ">=1.18"},
        "peak_memory": 1,
        "health": {},
    }
    core.artifacts.path("cd" * 32).parent.mkdir(parents=True, exist_ok=True)
    core.artifacts.path("cd" * 32).write_bytes(b"onnx")
    release(core, "1.1.0", variants=[variant])
    reports(core, "1.0.0", digest)

    with core.store.read() as tx:
        (model,) = explain_device(Evidence(tx, core.now), "dev-1").models
    assert model.prediction.move == move


def test_a_policy_for_a_single_device_is_refused(core: Core) -> None:
    reply = signed(core, policy_document({"windows": []}, level="device", target="dev-1"))

    assert (reply.status, reply.code) == ("rejected", "E-FLEET-DOCUMENT")


@pytest.mark.parametrize(("hours", "stale"), [(24, frozenset()), (25, frozenset({MODEL}))])
def test_a_device_without_a_security_release_is_stale_after_its_hours(
    core: Core, hours: int, stale: frozenset[str]
) -> None:
    reply = signed(core, policy_document({"staleness": {"security_within_hours": 24}}))
    assert reply.status == "accepted"
    digest = release(core, "1.0.0")
    release(core, "1.0.1", security_version=1)
    reports(core, "1.0.0", digest)

    now = core.now + timedelta(hours=hours)
    with core.store.read() as tx:
        evidence = Evidence(tx, now)
        known = evidence.device(devices.get(tx, "dev-1"), ())
        assert stale_models(evidence.trust.view, known, now) == stale
        found = select(tx, parse("stale"), Reach(), now, limit=9)
        assert [row.device for row in found] == (["dev-1"] if stale else [])


@pytest.mark.parametrize("urgency", [{}, {"urgency": "emergency", "reason": "CVE-2026-1"}])
def test_how_long_a_plan_takes_counts_the_wait_for_a_window(
    core: Core, urgency: dict[str, str]
) -> None:
    signed(core, policy_document({"windows": [window_in(core.now, 3)]}))
    digest = release(core, "1.0.0")
    reports(core, "1.0.0", digest)
    with core.store.transaction() as tx:
        device_signs.set_presence(tx, "dev-1", session=1, online=True, at=core.now)
    core.trust.release("1.1.0", approve=False)
    core.submit(f"release-{MODEL}")
    document = Rollout.model_validate(
        {
            "apiVersion": "mailboat/v1",
            "kind": "Rollout",
            "metadata": {"name": "next"},
            "spec": {
                "release": {"model": MODEL, "version": "1.1.0"},
                "waves": [{"percent": 100}],
                **urgency,
            },
        }
    )

    with core.store.read() as tx:
        found = forecast(Evidence(tx, core.now), document, None)
    assert found.waiting == (frozenset() if urgency else {"dev-1"})
    duration = found.waves[0].duration
    assert duration is not None
    assert (duration >= timedelta(hours=3)) == (not urgency)
    assert any("emergency: CVE-2026-1" in each for each in found.warnings) == bool(urgency)


def explained(core: Core) -> ExplainedModel:
    with core.store.read() as tx:
        (model,) = explain_device(Evidence(tx, core.now), "dev-1").models
    return model


def test_explain_says_what_policy_does_about_a_stale_model_and_what_the_device_says_of_it(
    core: Core,
) -> None:
    bound = {"minor_versions_behind_max": 0, "enforce": "stop", "grace_hours": 2}
    signed(core, policy_document({"staleness": bound}))
    digest = release(core, "1.0.0")
    release(core, "1.1.0")
    found_at = int(core.now.timestamp())
    until = f"{core.now + timedelta(hours=2):%Y-%m-%d %H:%M} UTC"

    reports(core, "1.0.0", digest, stale_since=found_at)
    assert explained(core).stale == (
        "1 minor versions behind, 0 are allowed",
        f"answers are marked; it is served no more from {until}",
    )
    core.now += timedelta(hours=3)
    assert explained(core).stale[1].endswith("policy (not confirmed by it yet)")

    reports(core, None, None, stale_since=found_at, stopped=("1.0.0", digest))
    stopped = explained(core)
    assert stopped.serving is None
    assert stopped.stale[1] == "not served until something newer can be: policy"
    assert stopped.prediction.move == "takes"
    with core.store.read() as tx:
        row = devices.get(tx, "dev-1")
        evidence = Evidence(tx, core.now)
        assert stale_models(evidence.trust.view, evidence.device(row, ()), core.now) == {MODEL}


def test_a_release_outside_the_range_of_a_policy_is_explained_as_such(core: Core) -> None:
    digest = release(core, "1.0.0")
    release(core, "1.1.0")
    signed(core, policy_document({"days_between": 0}, compatible={"models": {MODEL: "<1.1"}}))
    reports(core, "1.0.0", digest)

    (offered,) = (each for each in explained(core).releases if each.ref.version == "1.1.0")
    (check,) = (each for each in offered.explained.checks if each.name == "compatible")
    assert (check.passed, check.code) == (False, "E-POLICY-RANGE")
    assert check.because == "policy hours 1.0.0 is for vad <1.1, not for 1.1.0"


def test_an_emergency_is_shown_with_its_reason_where_a_rollout_is_looked_at(core: Core) -> None:
    digest = release(core, "1.0.0")
    urgent = {"urgency": "emergency", "reason": "CVE-2026-1"}
    rollout = plan("urgent", EVERYBODY).model_copy(update=urgent)
    core.trust.release("1.1.0", rollout)
    assert core.submit(f"release-{MODEL}", f"approval-{MODEL}").status == "accepted"
    core.run()
    reports(core, "1.0.0", digest)

    with core.store.read() as tx:
        told = {row.rollout.name: summary(row)["emergency"] for row in rollouts.every(tx)}
    assert told == {"r1-0-0": "", "urgent": "CVE-2026-1"}
    by_version = {each.ref.version: each.emergency for each in explained(core).releases}
    assert by_version["1.1.0"] == "CVE-2026-1"
    assert by_version.get("1.0.0", "") == ""
