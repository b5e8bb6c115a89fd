"""A device's certificate, its renewal, and the content keys given to it: at the real API."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from attack_siege import Siege
from mailboat_controller.store import audit, device_certificates, devices
from mailboat_schemas.content_key import WrongContentKey, content_key_id, unwrap, wrap_to_device
from mailboat_schemas.enrolment import renewal_proof
from mailboat_schemas.events import EventKind
from running_api import Answer, RunningApi, certificate_request, running_api
from trust_fleet import FLEET

Key = ec.EllipticCurvePrivateKey
CONTENT_KEY = bytes(range(32))


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("controller")) as api:
        yield api


@dataclass
class Enrolled:
    """A device that was enrolled, and whose certificate ended while it was away."""

    api: RunningApi
    name: str
    key: Key

    @classmethod
    def at(cls, api: RunningApi, name: str, *, ended: timedelta = timedelta(days=3)) -> "Enrolled":
        key = new_key()
        assert api.enrol(name, key=key).status == 201
        with api.store.transaction() as tx:
            devices.set_certificate(tx, name, serial="1", expires_at=api.now() - ended)
        return cls(api, name, key)

    def challenge(self) -> str:
        answer = self.api.ask("POST", "/v1/renewal-challenges", body={"device": self.name})
        return str(answer.json["challenge"])

    def proof(self, challenge: str, *, signer: Key | None = None) -> dict[str, Any]:
        request = certificate_request(self.key, self.name)
        content = renewal_proof(
            fleet=FLEET, device=self.name, challenge=challenge, certificate_request=request
        )
        signature = (signer or self.key).sign(content, ec.ECDSA(hashes.SHA256()))
        return {
            "device": self.name,
            "challenge": challenge,
            "certificate_request": request,
            "signature": signature.hex(),
        }

    def prove(self, proof: dict[str, Any]) -> Answer:
        return self.api.ask("POST", "/v1/renewals", body=proof)

    def given(self) -> int:
        """How many certificates this device was ever given, the first included."""
        with self.api.store.read() as tx:
            return device_certificates.count_since(tx, self.name, self.api.trust.now - DECADE)


DECADE = timedelta(days=3650)


def assert_refused(device: Enrolled, answer: Answer, code: str) -> None:
    """Under its code, written down, and no certificate was given."""
    assert answer.status in {401, 403}, answer.content
    assert answer.json["code"] == code
    assert device.given() == 1
    with device.api.store.read() as tx:
        refusals = [row for row in audit.page(tx, limit=10_000) if row.subject == device.name]
    assert ("device.renew_refused", code) in [
        (row.action, row.details.get("code")) for row in refusals
    ]


# --- renewal -------------------------------------------------------------------------------------


def test_a_renewal_with_proof_of_another_key(api: RunningApi) -> None:
    device = Enrolled.at(api, "away-1")
    answer = device.prove(device.proof(device.challenge(), signer=new_key()))
    assert_refused(device, answer, "E-RENEWAL-PROOF")


def test_a_renewal_of_a_revoked_device(api: RunningApi) -> None:
    device = Enrolled.at(api, "away-2")
    with api.store.transaction() as tx:
        devices.revoke(tx, device.name)
    answer = device.prove(device.proof(device.challenge()))
    assert_refused(device, answer, "E-REVOKED")


def test_a_renewal_after_more_than_the_time_of_grace(api: RunningApi) -> None:
    device = Enrolled.at(api, "away-3", ended=timedelta(days=api.settings.renewal_grace_days + 1))
    answer = device.prove(device.proof(device.challenge()))
    assert_refused(device, answer, "E-CERTIFICATE-TOO-OLD")


def test_a_proof_of_renewal_replayed(api: RunningApi) -> None:
    device = Enrolled.at(api, "away-4")
    proof = device.proof(device.challenge())
    assert device.prove(proof).status == 201
    answer = device.prove(proof)
    assert answer.json["code"] == "E-CHALLENGE"
    assert device.given() == 2


def test_a_proof_over_another_devices_challenge(api: RunningApi) -> None:
    device, other = Enrolled.at(api, "away-5"), Enrolled.at(api, "away-6")
    answer = device.prove(device.proof(other.challenge()))
    assert_refused(device, answer, "E-CHALLENGE")


def test_a_renewal_with_the_key_exchanged_after_it_was_signed(api: RunningApi) -> None:
    """Somebody in between would like a certificate for a key of their own."""
    device = Enrolled.at(api, "away-7")
    proof = device.proof(device.challenge())
    proof["certificate_request"] = certificate_request(new_key(), device.name)
    assert_refused(device, device.prove(proof), "E-RENEWAL-PROOF")


def test_a_device_that_renews_as_another(api: RunningApi) -> None:
    assert api.enrol("present-1").status == 201
    body = {"certificate_request": certificate_request(new_key(), "present-2")}
    answer = api.ask("POST", "/v1/devices/self/certificate", by="present-1", body=body)
    assert answer.json["code"] == "E-REQUEST-NAME"


# --- content keys --------------------------------------------------------------------------------


def test_a_content_key_asked_for_by_a_device_it_is_not_assigned_to(api: RunningApi) -> None:
    assert api.enrol("curious-1").status == 201
    path = f"/v1/content-keys/{content_key_id(CONTENT_KEY)}"
    body = {"key": CONTENT_KEY.hex()}
    assert api.ask("PUT", path, by="build", body=body).status in {200, 201, 204}
    answer = api.ask("POST", path, by="curious-1")
    assert (answer.status, answer.json["code"]) == (403, "E-CONTENT-KEY-NOT-ASSIGNED")


def test_a_content_key_wrapped_to_one_device_opened_by_another() -> None:
    mine, theirs, key_id = new_key(), new_key(), content_key_id(CONTENT_KEY)
    wrapped = wrap_to_device(CONTENT_KEY, theirs.public_key(), fleet=FLEET, device="kiosk-2")
    with pytest.raises(WrongContentKey):
        unwrap(wrapped, mine, key_id=key_id, fleet=FLEET, device="kiosk-2")
    with pytest.raises(WrongContentKey):
        unwrap(wrapped, theirs, key_id=key_id, fleet=FLEET, device="kiosk-1")


async def test_an_encrypted_artifact_exchanged_for_another_ciphertext(siege: Siege) -> None:
    second = siege.fleet.model_release("1.1.0", factor=3.0, content_key=CONTENT_KEY)
    siege.server.content_keys[content_key_id(CONTENT_KEY)] = CONTENT_KEY
    before = set(siege.fleet.artifacts)
    third = siege.fleet.model_release("1.2.0", factor=4.0, content_key=CONTENT_KEY)
    of_third = [digest for digest in siege.fleet.artifacts if digest not in before]
    of_second = [digest for digest in before if digest not in set(siege.artifacts_at_first)]
    for mine, other in zip(sorted(of_second), sorted(of_third), strict=False):
        siege.fleet.artifacts[mine] = siege.fleet.artifacts[other]
    assert third.digest != second.digest
    siege.box.take(siege.fleet.offered(second, siege.current))
    siege.remember()
    await siege.box.until(lambda: bool(siege.alarms()))
    assert [event.kind for event in siege.alarms()] == [EventKind.RELEASE_REFUSED]
    await siege.assert_refused("E-DIGEST")


async def test_a_controller_that_gives_the_wrong_content_key(siege: Siege) -> None:
    second = siege.fleet.model_release("1.1.0", factor=3.0, content_key=CONTENT_KEY)
    siege.server.content_keys[content_key_id(CONTENT_KEY)] = bytes(32)
    siege.box.take(siege.fleet.offered(second, siege.current))
    siege.remember()
    await siege.box.until(lambda: bool(siege.alarms()))
    assert "trial_started 1.1.0" not in siege.box.told()
    await siege.assert_refused("E-PAYLOAD-MALFORMED")
