"""Manifests, submissions, rollouts, devices, classes, audit: what people and machines ask for."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from audit_tampering import unlock
from mailboat_controller.api import audit as audit_routes
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.desired import ManifestBundle
from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.plan import Plan, PlanWave
from mailboat_schemas.submission import Submission, SubmissionReply
from running_api import HARDWARE_CLASS, Answer, RunningApi
from trust_fleet import CLASS, FLEET, MODEL, document

PLAN = Plan(
    rollout="first",
    waves=(PlanWave(count=1, cap_ppm=1_000_000), PlanWave(count_ppm=1_000_000, cap_ppm=1_000_000)),
)


@pytest.fixture(scope="module", autouse=True)
def fleet(api: RunningApi) -> None:
    """One enrolled device, one submitted release with its artifact stored."""
    assert api.enrol("dev-1").status == 201
    path = api.artifacts.path("ab" * 32)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"onnx")  # the small document of these tests names 4 bytes under this name
    assert submit(api, submission(api)).status == 200


def submission(api: RunningApi) -> bytes:
    digest = api.trust.release("1.0.0", PLAN)
    names = ("release-vad", "approval-vad")
    roles = {name: api.trust.roles[name] for name in names}
    return encode(
        Submission(fleet=FLEET, roles=roles, documents={digest: api.trust.documents[digest]})
    )


def submit(api: RunningApi, content: bytes, by: str = "build") -> Answer:
    headers = {"Content-Type": "application/vnd.msgpack"}
    return api.ask("POST", "/v1/submissions", by=by, body=content, headers=headers)


class TestSubmissions:
    def test_the_answer_names_release_and_rollout(self, api: RunningApi) -> None:
        listed = api.ask("GET", "/v1/releases", by="alice").json

        assert [(each["model"], each["version"]) for each in listed] == [(MODEL, "1.0.0")]
        assert listed[0]["hardware_classes"] == [CLASS]

    def test_a_refusal_is_an_answer_with_reasons(self, api: RunningApi) -> None:
        answer = submit(api, b"nonsense")
        reply = SubmissionReply.model_validate_json(answer.content)

        assert (answer.status, reply.status) == (422, "rejected")
        assert reply.reasons

    def test_one_over_the_bound_is_refused_before_it_is_read(self, api: RunningApi) -> None:
        answer = submit(api, bytes(Submission.wire_bytes_max + 1))

        assert (answer.status, answer.json["code"]) == (413, "E-PAYLOAD-TOO-LARGE")

    def test_its_sender_is_in_the_audit_log(self, api: RunningApi) -> None:
        actors = {entry["actor"] for entry in api.ask("GET", "/v1/audit", by="alice").json}

        assert "ci:build" in actors


class TestManifests:
    def test_are_the_bytes_that_mqtt_carries(self, api: RunningApi) -> None:
        answer = api.ask("GET", f"/v1/manifests/{CLASS}", by="dev-1")
        with api.store.read() as tx:
            queued = tx.execute(text("SELECT payload FROM outbox WHERE retain")).scalars().all()

        assert answer.status == 200
        assert answer.content in queued
        assert decode(ManifestBundle, answer.content).hardware_class == CLASS

    def test_are_not_sent_to_who_has_them(self, api: RunningApi) -> None:
        etag = api.ask("GET", f"/v1/manifests/{CLASS}", by="dev-1").headers["etag"]
        headers = {"If-None-Match": etag}
        answer = api.ask("GET", f"/v1/manifests/{CLASS}", by="dev-1", headers=headers)

        assert (answer.status, answer.content) == (304, b"")

    def test_of_another_class_are_not_a_devices_business(self, api: RunningApi) -> None:
        assert api.ask("GET", "/v1/manifests/camera", by="dev-1").status == 403
        assert api.ask("GET", "/v1/manifests/camera", by="alice").status == 404


class TestTrust:
    def test_roles_are_the_signed_bytes(self, api: RunningApi) -> None:
        answer = api.ask("GET", "/v1/trust/roles/release-vad", by="build")

        assert answer.content == api.trust.roles["release-vad"]
        assert api.ask("GET", "/v1/trust/roles/release-x", by="build").status == 404
        assert api.ask("GET", "/v1/trust/roles/..%2Froot", by="build").status in {404, 422}

    def test_the_root_chain_begins_with_the_factory_root(self, api: RunningApi) -> None:
        roots = api.ask("GET", "/v1/trust/root", by="dev-1").json["roots"]

        assert roots == [api.trust.factory_root.decode()]


def test_a_release_document_is_given_byte_for_byte(api: RunningApi) -> None:
    answer = api.ask("GET", f"/v1/releases/{MODEL}/1.0.0", by="build")

    assert answer.content == document("1.0.0").canonical_bytes()
    assert ReleaseDocument.parse(answer.content).version == "1.0.0"
    assert api.ask("GET", f"/v1/releases/{MODEL}/9.9.9", by="build").status == 404


class TestRollouts:
    def order(self, api: RunningApi, verb: str, **body: Any) -> Answer:
        return api.ask("POST", f"/v1/rollouts/first/{verb}", by="alice", body=body)

    def test_counts_add_up(self, api: RunningApi) -> None:
        rollout = api.ask("GET", "/v1/rollouts/first", by="wall").json
        counts = rollout["classes"][CLASS]

        assert (rollout["name"], rollout["phase"]) == ("first", "running")
        places = ("not_open", "waiting", "in_progress", "ok", "failed")
        assert counts["eligible"] == sum(counts[place] for place in places) == 1
        assert rollout["because"]

    def test_orders_move_it_and_are_audited_with_their_reason(self, api: RunningApi) -> None:
        woken = api.woken
        paused = self.order(api, "pause", reason="storm at sea")
        assert (paused.status, paused.json["phase"]) == (200, "paused")
        assert self.order(api, "resume", reason="calm").json["phase"] == "running"

        assert api.woken == woken + 2
        entries = api.ask("GET", "/v1/audit?subject=first&limit=500", by="alice").json
        (entry,) = [each for each in entries if each["action"] == "rollout.pause"]
        assert (entry["actor"], entry["reason"]) == ("operator:alice", "storm at sea")

    def test_an_order_that_is_not_in_the_table_is_a_conflict(self, api: RunningApi) -> None:
        for verb in ("start", "undo"):
            answer = self.order(api, verb, reason="again")

            assert (answer.status, answer.json["code"]) == (409, "E-CONFLICT")

    @pytest.mark.parametrize("body", [{}, {"reason": "  "}, {"reason": "x" * 1001}])
    def test_an_order_without_a_proper_reason_is_refused(
        self, api: RunningApi, body: dict[str, str]
    ) -> None:
        assert self.order(api, "pause", **body).status == 422

    def test_nobody_orders_completion(self, api: RunningApi) -> None:
        assert self.order(api, "finish", reason="x").status == 422


class TestDevices:
    def test_are_listed_in_pages_and_by_class_and_site(self, api: RunningApi) -> None:
        token = api.kit(site="harbour", uses=3)["token"]
        for number in (1, 2, 3):
            assert api.enrol(f"crane-{number}", token=token).status == 201
        page = api.ask("GET", "/v1/devices?site=harbour&limit=2", by="wall").json
        after = page[-1]["enrolment_number"]
        rest = api.ask("GET", f"/v1/devices?site=harbour&after={after}", by="wall").json

        assert [each["device"] for each in page + rest] == ["crane-1", "crane-2", "crane-3"]
        assert api.ask("GET", "/v1/devices?hardware_class=camera", by="wall").json == []
        assert api.ask("GET", "/v1/devices?limit=1001", by="wall").status == 422

    def test_a_revoked_one_is_refused_from_the_next_request_on(self, api: RunningApi) -> None:
        api.enrol("gone-1")
        path = "/v1/devices/gone-1/revoke"
        assert api.ask("POST", path, by="alice", body={"reason": "stolen"}).json["revoked"]
        assert api.ask("POST", path, by="alice", body={"reason": "again"}).status == 200

        answer = api.ask("GET", f"/v1/manifests/{CLASS}", by="gone-1")
        assert (answer.status, answer.json["code"]) == (403, "E-REVOKED")
        entries = api.ask("GET", "/v1/audit?subject=gone-1&limit=500", by="alice").json
        assert [each["action"] for each in entries] == ["device.enrol", "device.revoke"]

    def test_unknown_ones_are_not_found(self, api: RunningApi) -> None:
        for path in ("/v1/devices/dev-9", "/v1/devices/dev-9/events"):
            assert api.ask("GET", path, by="wall").status == 404


class TestClasses:
    def put(self, api: RunningApi, name: str, content: dict[str, Any]) -> Answer:
        return api.ask("PUT", f"/v1/hardware-classes/{name}", by="alice", body=content)

    def test_are_applied_once(self, api: RunningApi) -> None:
        content = {**HARDWARE_CLASS, "metadata": {"name": "camera"}}

        assert self.put(api, "camera", content).json == {"name": "camera", "changed": True}
        assert self.put(api, "camera", content).json == {"name": "camera", "changed": False}
        shown = api.ask("GET", "/v1/hardware-classes/camera", by="wall").json
        assert shown["apiVersion"] == "mailboat/v1"
        assert shown["spec"]["memory_budget"] == 256 << 20

    def test_under_another_name_than_their_own_are_refused(self, api: RunningApi) -> None:
        assert self.put(api, "toaster", HARDWARE_CLASS).status == 409

    def test_a_mistake_names_its_place(self, api: RunningApi) -> None:
        content = {**HARDWARE_CLASS, "spec": {"arch": "x86_64", "disk_budget": 1}}
        answer = self.put(api, CLASS, content)

        assert (answer.status, answer.json["code"]) == (422, "E-REQUEST")
        assert "memory_budget" in answer.json["detail"]


def test_the_audit_log_is_verified_for_one_at_a_time(api: RunningApi) -> None:
    """It is read from its beginning: forty at once would leave no thread for the devices."""
    with audit_routes._verifying:
        answer = api.ask("GET", "/v1/audit/verify", by="vera")
    assert (answer.status, answer.json["code"]) == (429, "E-RATE-LIMITED")
    assert answer.headers["retry-after"] == "5"
    assert api.ask("GET", "/v1/audit/verify", by="vera").json["holds"]


def test_the_audit_log_can_be_verified_and_tampering_is_found(api: RunningApi) -> None:
    before = api.ask("GET", "/v1/audit/verify", by="wall").json
    assert (before["holds"], before["broken_at"]) == (True, None)
    with api.store.transaction() as tx:
        unlock(tx)
        reason = tx.execute(text("SELECT reason FROM audit WHERE sequence = 2")).scalar_one()
        tx.execute(text("UPDATE audit SET reason = 'x' WHERE sequence = 2"))
    assert api.ask("GET", "/v1/audit/verify", by="wall").json["broken_at"] == 2
    with api.store.transaction() as tx:
        tx.execute(text("UPDATE audit SET reason = :r WHERE sequence = 2"), {"r": reason})


def test_stats_and_metrics_are_for_dashboards(api: RunningApi) -> None:
    assert api.ask("GET", "/v1/stats", by="wall").json == {"fleet/demo": {"t": 1.0, "devices": 0}}
    answer = api.ask("GET", "/metrics", by="wall")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_instants_are_told_in_utc(api: RunningApi) -> None:
    enrolled_at = api.ask("GET", "/v1/devices/dev-1", by="wall").json["enrolled_at"]

    assert enrolled_at.endswith("Z")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(enrolled_at)).total_seconds()) < 600
