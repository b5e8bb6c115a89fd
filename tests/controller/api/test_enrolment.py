from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mailboat_controller.pki.certificates import holder_of
from mailboat_controller.store import audit, enrolment_requests
from mailboat_schemas.enrolment import EnrolmentKit
from mailboat_schemas.trust import TrustView
from running_api import Answer, RunningApi, certificate_request
from trust_fleet import CLASS, FLEET


def test_a_kit_carries_what_a_device_needs_to_begin(api: RunningApi) -> None:
    kit = EnrolmentKit.model_validate(api.kit(site="harbour", labels={"ring": "early"}))

    assert (kit.fleet, kit.hardware_class, kit.site) == (FLEET, CLASS, "harbour")
    assert (kit.api_url, kit.mqtt_host) == ("https://controller.example:8443", "broker.example")
    assert kit.ca.encode() == api.authority.ca_pem
    assert TrustView(kit.trust_root.encode(), {}).versions() == {"root": 1}
    assert len(kit.token) >= 40


def test_why_a_kit_was_made_is_in_the_audit_log_if_somebody_said(api: RunningApi) -> None:
    api.kit(reason=" for the harbour ")
    api.kit()

    with api.store.read() as tx:
        made = [each for each in audit.page(tx) if each.action == "enrolment_token.create"]
    assert [each.reason for each in made[-2:]] == ["for the harbour", ""]
    assert "reason" not in made[-1].details


def test_a_device_gets_a_certificate_of_its_name_class_and_number(api: RunningApi) -> None:
    answer = api.enrol("cam-1", token=api.kit(site="harbour", labels={"ring": "early"})["token"])

    assert answer.status == 201
    content = answer.json
    holder = holder_of(content["certificate"].encode())
    assert (holder.name, holder.enrolment_number) == ("cam-1", content["enrolment_number"])
    assert (content["hardware_class"], content["site"]) == (CLASS, "harbour")
    assert content["labels"] == {"ring": "early"}
    shown = api.ask("GET", "/v1/devices/cam-1", by="alice").json
    assert (shown["site"], shown["online"]) == ("harbour", None)
    # And with it the device is let in.
    assert api.ask("GET", "/v1/trust/root", by="cam-1").status == 200


def test_a_used_token_is_refused(api: RunningApi) -> None:
    token = api.kit()["token"]
    assert api.enrol("once-1", token=token).status == 201

    answer = api.enrol("once-2", token=token)
    assert (answer.status, answer.json["code"]) == (403, "E-NOT-PERMITTED")
    assert api.ask("GET", "/v1/devices/once-2", by="alice").status == 404


def test_an_expired_token_is_refused(api: RunningApi) -> None:
    assert api.enrol("late-1", token=api.kit(hours=1e-9)["token"]).status == 403


@pytest.mark.parametrize("name", ["controller", "broker", "wall", "build"])
def test_a_device_cannot_take_the_name_of_somebody_else_at_the_broker(
    api: RunningApi, name: str
) -> None:
    token = api.kit()["token"]
    answer = api.enrol(name, token=token)

    assert (answer.status, answer.json["code"]) == (409, "E-CONFLICT")
    # The refusal did not spend the token.
    assert api.enrol(f"not-{name}", token=token).status == 201


def test_a_name_stays_with_its_first_key_which_may_enrol_again(api: RunningApi) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    first = api.enrol("twice-1", key=key)
    again = api.enrol("twice-1", key=key)

    assert again.status == 201
    assert again.json["enrolment_number"] == first.json["enrolment_number"]
    assert again.json["certificate"] != first.json["certificate"]
    assert api.enrol("twice-1").status == 409


def test_a_kit_for_a_class_that_does_not_exist_is_refused(api: RunningApi) -> None:
    answer = api.ask("POST", "/v1/enrolment-tokens", by="alice", body={"hardware_class": "toaster"})

    assert (answer.status, answer.json["code"]) == (404, "E-NOT-FOUND")


@pytest.mark.parametrize(
    "change",
    [
        {"device": "Dev/1"},
        {"device": "a" * 64},
        {"certificate_request": "nonsense"},
        {"token": "short"},
        {"certificate_request": "x" * 20_000},
    ],
)
def test_a_malformed_request_spends_nothing_and_repeats_no_secret(
    api: RunningApi, change: dict[str, str]
) -> None:
    token = api.kit()["token"]
    request = {
        "token": token,
        "device": "odd-1",
        "certificate_request": certificate_request(ec.generate_private_key(ec.SECP256R1())),
    }
    answer = api.ask("POST", "/v1/enrol", body=request | change)

    assert answer.status in {400, 422}
    assert token.encode() not in answer.content
    assert api.ask("GET", "/v1/devices/odd-1", by="alice").status == 404


def test_an_rsa_key_is_refused_with_the_reason(api: RunningApi) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    answer = api.ask(
        "POST",
        "/v1/enrol",
        body={
            "token": api.kit()["token"],
            "device": "rsa-1",
            "certificate_request": certificate_request(key),
        },
    )

    assert answer.status == 400
    assert "P-256" in answer.json["detail"]


def test_enrolment_and_kits_are_in_the_audit_log(api: RunningApi) -> None:
    api.enrol("seen-1")
    entries = api.ask("GET", "/v1/audit?limit=500", by="alice").json
    by_action = {entry["action"]: entry for entry in entries}

    assert by_action["enrolment_token.create"]["actor"] == "operator:alice"
    enrolled = [entry for entry in entries if entry["subject"] == "seen-1"]
    assert enrolled[0]["details"]["token_by"] == "operator:alice"


def test_the_certificate_is_short_lived(api: RunningApi) -> None:
    answer = api.enrol("brief-1")
    certificate = x509.load_pem_x509_certificate(answer.json["certificate"].encode())
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc

    assert lifetime.days == api.settings.device_certificate_days


class TestAKitThatAsksForApproval:
    def ask(self, api: RunningApi, device: str, token: str, key: Any) -> Answer:
        body = {"token": token, "device": device, "certificate_request": certificate_request(key)}
        return api.ask("POST", "/v1/enrol", body=body)

    def decide(self, api: RunningApi, device: str, verb: str, **body: str) -> Answer:
        return api.ask("POST", f"/v1/devices/{device}/{verb}", by="alice", body=body)

    def test_keeps_no_more_waiting_than_its_bound_and_says_what_to_do(
        self, api: RunningApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        token = api.kit(approval=True, uses=3)["token"]
        keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
        assert self.ask(api, "crowd-1", token, keys[0]).status == 202
        with api.store.read() as tx:
            waiting = len(enrolment_requests.pending(tx, datetime.now(UTC), limit=100))
        monkeypatch.setattr(enrolment_requests, "WAITING_MAX", waiting)

        refused = self.ask(api, "crowd-2", token, keys[1])

        assert (refused.status, refused.json["code"]) == (409, "E-CONFLICT")
        assert "device list --pending" in refused.json["next_step"]
        assert self.ask(api, "crowd-1", token, keys[0]).status == 202, "who waits, waits on"

    def test_lets_a_device_in_when_a_person_has_compared_its_fingerprint(
        self, api: RunningApi
    ) -> None:
        key, token = ec.generate_private_key(ec.SECP256R1()), api.kit(approval=True)["token"]
        waiting = self.ask(api, "wait-1", token, key)
        assert waiting.status == 202
        assert self.ask(api, "wait-1", token, key).json == waiting.json  # again, after a reboot
        assert api.ask("GET", "/v1/devices/wait-1", by="alice").status == 404
        pending = api.ask("GET", "/v1/devices/pending", by="alice").json
        shown = next(each for each in pending if each["device"] == "wait-1")
        assert shown["fingerprint"] == waiting.json["fingerprint"]

        approved = self.decide(api, "wait-1", "approve", fingerprint=shown["fingerprint"])
        assert approved.json["state"] == "approved"
        answer = self.ask(api, "wait-1", token, key)
        assert answer.status == 201
        # The answer is lost: the same request is answered again.
        again = self.ask(api, "wait-1", token, key)
        assert again.json["enrolment_number"] == answer.json["enrolment_number"]
        entries = api.ask("GET", "/v1/audit?limit=500&subject=wait-1", by="alice").json
        by_action = {entry["action"]: entry["actor"] for entry in entries}
        assert by_action["device.approve"] == "operator:alice"
        assert by_action["device.enrol_request"] == "device:wait-1"

    def test_refuses_another_fingerprint(self, api: RunningApi) -> None:
        token = api.kit(approval=True)["token"]
        self.ask(api, "wait-2", token, ec.generate_private_key(ec.SECP256R1()))
        for other in ("00" * 32, "", "ab12…"):  # the last as a terminal may shorten it
            answer = self.decide(api, "wait-2", "approve", fingerprint=other)
            assert (answer.status, answer.json["code"]) == (403, "E-FINGERPRINT")

    def test_keeps_a_rejected_device_out_for_good(self, api: RunningApi) -> None:
        key, token = ec.generate_private_key(ec.SECP256R1()), api.kit(approval=True)["token"]
        shown = self.ask(api, "wait-3", token, key).json["fingerprint"]
        assert self.decide(api, "wait-3", "reject", reason="not ours").status == 200

        answer = self.ask(api, "wait-3", token, key)
        assert (answer.status, answer.json["code"]) == (403, "E-ENROLMENT-REJECTED")
        assert self.decide(api, "wait-3", "approve", fingerprint=shown).status == 409

    def test_does_not_give_a_waiting_name_to_another_key_until_it_is_rejected(
        self, api: RunningApi
    ) -> None:
        squatter, owner = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        token = api.kit(approval=True, uses=2)["token"]
        self.ask(api, "wait-4", token, squatter)
        assert self.ask(api, "wait-4", token, owner).status == 409

        self.decide(api, "wait-4", "reject", reason="not ours")
        assert self.ask(api, "wait-4", token, owner).status == 202

    def test_is_not_spent_twice_and_needs_its_own_token(self, api: RunningApi) -> None:
        key, token = ec.generate_private_key(ec.SECP256R1()), api.kit(approval=True)["token"]
        self.ask(api, "wait-5", token, key)

        assert self.ask(api, "wait-6", token, key).status == 403
        other = api.kit()["token"]
        assert self.ask(api, "wait-5", other, key).status == 409

    def test_asks_for_a_reason_to_reject(self, api: RunningApi) -> None:
        assert self.decide(api, "wait-7", "reject", reason=" ").status == 422
        assert self.decide(api, "wait-7", "reject", reason="who?").status == 404


def test_two_devices_cannot_have_one_key(api: RunningApi) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert api.enrol("own-1", key=key).status == 201

    assert api.enrol("own-2", key=key).status == 409
