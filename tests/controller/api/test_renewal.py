"""Renewal over a real connection: with the certificate, and after its end with proof of the key."""

import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mailboat_controller.pki import renewal
from mailboat_controller.store import all_tables, audit, device_certificates, devices
from mailboat_schemas.enrolment import renewal_proof
from mailboat_schemas.envelope import PayloadType, sign_as_device
from running_api import Answer, RunningApi, certificate_request, write_key
from trust_fleet import FLEET

Key = ec.EllipticCurvePrivateKey


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def spki(key: Key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass
class Enrolled:
    """A device at the running API. ``by`` names the identity that it connects with."""

    api: RunningApi
    name: str
    key: Key

    @classmethod
    def at(cls, api: RunningApi, name: str) -> "Enrolled":
        key = new_key()
        assert api.enrol(name, key=key).status == 201
        return cls(api, name, key)

    def renew(self, key: Key | None = None, *, by: str = "", name: str = "") -> Answer:
        request = certificate_request(key or self.key, name or self.name)
        body = {"certificate_request": request}
        return self.api.ask("POST", "/v1/devices/self/certificate", by=by or self.name, body=body)

    def keep(self, answer: Answer, key: Key, as_: str) -> None:
        certificate = self.api.directory / f"{as_}.pem"
        certificate.write_text(answer.json["certificate"])
        place = write_key(key, certificate.with_suffix(".key"))
        self.api.identities[as_] = (certificate, place)

    def confirm(self, by: str) -> Answer:
        return self.api.ask("POST", "/v1/devices/self/certificate/confirmation", by=by)

    def may_ask(self, by: str) -> bool:
        return self.api.ask("GET", "/v1/trust/root", by=by).status == 200

    def row(self) -> devices.DeviceRow:
        with self.api.store.read() as tx:
            return devices.get(tx, self.name)

    def set_end(self, ago: timedelta) -> None:
        with self.api.store.transaction() as tx:
            at = datetime.now(UTC) - ago
            devices.set_certificate(tx, self.name, serial="1", expires_at=at)

    def challenge(self) -> str:
        answer = self.api.ask("POST", "/v1/renewal-challenges", body={"device": self.name})
        assert answer.status == 201
        return str(answer.json["challenge"])

    def proof(
        self, challenge: str = "", *, signer: Key | None = None, key: Key | None = None
    ) -> dict[str, Any]:
        challenge = challenge or self.challenge()
        request = certificate_request(key or self.key, self.name)
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


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["code"]


class TestWithItsCertificate:
    def test_a_device_gets_a_new_one_for_the_same_key(self, api: RunningApi) -> None:
        device = Enrolled.at(api, "renew-1")
        before = device.row()
        answer = device.renew()

        assert (answer.status, answer.json["confirm"]) == (201, False)
        certificate = x509.load_pem_x509_certificate(answer.json["certificate"].encode())
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        assert life.days == api.settings.device_certificate_days == 30
        after = device.row()
        assert after.certificate_serial != before.certificate_serial
        assert after.certificate_expires_at == certificate.not_valid_after_utc
        assert after.enrolment_number == before.enrolment_number

    def test_a_new_key_counts_beside_the_old_one_until_it_is_confirmed(
        self, api: RunningApi
    ) -> None:
        device, following = Enrolled.at(api, "renew-2"), new_key()
        answer = device.renew(following)
        assert answer.json["confirm"] is True
        device.keep(answer, following, "renew-2-new")

        assert device.may_ask("renew-2")
        assert device.may_ask("renew-2-new")
        assert device.row().public_key == spki(device.key)

        assert device.confirm("renew-2-new").json == {"device": "renew-2", "changed": True}
        assert device.confirm("renew-2-new").json["changed"] is False  # sent again, answer lost
        assert device.may_ask("renew-2-new")
        assert code(api.ask("GET", "/v1/trust/root", by="renew-2")) == (403, "E-KEY-SUPERSEDED")
        assert device.row().public_key == spki(following)

    def test_the_old_key_confirms_nothing(self, api: RunningApi) -> None:
        device = Enrolled.at(api, "renew-3")
        device.renew(new_key())

        assert device.confirm("renew-3").json["changed"] is False
        assert device.row().public_key == spki(device.key)

    def test_a_lost_answer_locks_nobody_out(self, api: RunningApi) -> None:
        device, first, second = Enrolled.at(api, "renew-4"), new_key(), new_key()
        device.renew(first)  # the answer never arrives, and the power fails with it
        answer = device.renew(second)
        device.keep(answer, second, "renew-4-new")

        assert device.confirm("renew-4-new").json["changed"] is True
        with api.store.read() as tx:
            entries = audit.page(tx, subject="renew-4", limit=1000)
        assert ["is replaced" in row.reason for row in entries if row.action == "device.renew"] == [
            False,
            True,  # the key that was replaced unconfirmed may be a second machine's
        ]

    def test_a_key_that_was_replaced_is_noticed_when_it_is_used(self, api: RunningApi) -> None:
        device, following = Enrolled.at(api, "renew-5"), new_key()
        device.keep(device.renew(following), following, "renew-5-new")
        device.confirm("renew-5-new")
        for _ in range(3):
            device.may_ask("renew-5")

        with api.store.read() as tx:
            entries = [
                row for row in audit.page(tx, subject="renew-5") if row.action == "device.old_key"
            ]
        assert len(entries) == 1

    def test_the_certificates_of_a_replaced_key_are_refused_at_the_broker(
        self, api: RunningApi
    ) -> None:
        device, following = Enrolled.at(api, "renew-6"), new_key()
        old = device.row().certificate_serial
        device.keep(device.renew(following), following, "renew-6-new")

        def refused() -> set[str]:
            with api.store.read() as tx:
                return {each.serial for each in device_certificates.refused(tx, datetime.now(UTC))}

        assert old not in refused()
        device.confirm("renew-6-new")
        assert old in refused()
        assert device.row().certificate_serial not in refused()

    @pytest.mark.parametrize("name", ["renew-1", "anything", "controller"])
    def test_a_request_in_another_name_is_refused(self, api: RunningApi, name: str) -> None:
        device = Enrolled.at(api, f"renew-as-{name}")

        assert code(device.renew(name=name)) == (403, "E-REQUEST-NAME")

    def test_the_key_of_another_device_is_refused(self, api: RunningApi) -> None:
        victim, thief = Enrolled.at(api, "renew-7"), Enrolled.at(api, "renew-8")

        assert code(thief.renew(victim.key)) == (409, "E-CONFLICT")

    def test_a_revoked_device_gets_none(self, api: RunningApi) -> None:
        device = Enrolled.at(api, "renew-9")
        revoke(api, device.name)

        assert code(device.renew()) == (403, "E-REVOKED")

    def test_a_device_revoked_during_its_renewal_cannot_finish_it(self, api: RunningApi) -> None:
        device, following = Enrolled.at(api, "renew-10"), new_key()
        device.keep(device.renew(following), following, "renew-10-new")
        revoke(api, device.name)

        assert code(device.confirm("renew-10-new")) == (403, "E-REVOKED")
        with api.store.read() as tx:
            refused = device_certificates.refused(tx, datetime.now(UTC))
        assert sum(each.name == "renew-10" for each in refused) == 2

    def test_there_is_a_bound_an_hour(
        self, api: RunningApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(renewal, "RENEWALS_PER_HOUR_MAX", 3)
        device = Enrolled.at(api, "renew-11")  # which counts as well

        assert [device.renew().status for _ in range(2)] == [201, 201]
        answer = device.renew()
        assert code(answer) == (429, "E-RATE-LIMITED")
        assert int(answer.headers["retry-after"]) >= 60

    def test_nobody_else_may_ask(self, api: RunningApi) -> None:
        assert Enrolled(api, "build", new_key()).renew().status == 403


class TestAfterItsEnd:
    def test_a_device_comes_back_with_proof_of_its_key(self, api: RunningApi) -> None:
        device, following = Enrolled.at(api, "back-1"), new_key()
        device.set_end(timedelta(days=90))
        answer = device.prove(device.proof(key=following))

        assert (answer.status, answer.json["confirm"]) == (201, True)
        device.keep(answer, following, "back-1-new")
        assert device.confirm("back-1-new").json["changed"] is True
        with api.store.read() as tx:
            entries = [row for row in audit.page(tx, subject="back-1") if "renew" in row.action]
        assert entries[0].details["proof"] == "key"

    def test_but_not_after_the_grace(self, api: RunningApi) -> None:
        device = Enrolled.at(api, "back-2")
        days = api.settings.renewal_grace_days
        device.set_end(timedelta(days=days - 1))
        assert device.prove(device.proof()).status == 201

        device.set_end(timedelta(days=days + 1))
        assert code(device.prove(device.proof())) == (403, "E-CERTIFICATE-TOO-OLD")

    def test_nor_when_it_is_revoked(self, api: RunningApi) -> None:
        device = Enrolled.at(api, "back-3")
        revoke(api, device.name)

        assert code(device.prove(device.proof())) == (403, "E-REVOKED")

    def test_a_replayed_proof_is_refused(self, api: RunningApi) -> None:
        device = Enrolled.at(api, "back-4")
        proof = device.proof()

        assert device.prove(proof).status == 201
        assert code(device.prove(proof)) == (403, "E-CHALLENGE")

    def test_of_two_that_race_with_one_proof_one_wins(self, api: RunningApi) -> None:
        device = Enrolled.at(api, "back-5")
        proof, statuses = device.proof(), []
        threads = [
            threading.Thread(target=lambda: statuses.append(device.prove(proof).status))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sorted(statuses) == [201, 403, 403, 403]

    def test_the_challenge_of_another_device_is_refused(self, api: RunningApi) -> None:
        device, other = Enrolled.at(api, "back-6"), Enrolled.at(api, "back-7")

        assert code(device.prove(device.proof(other.challenge()))) == (403, "E-CHALLENGE")

    @pytest.mark.parametrize("challenge", ["AAAA", "x", "é" * 20, "A" * 76])
    def test_a_made_up_challenge_is_refused(self, api: RunningApi, challenge: str) -> None:
        device = Enrolled(api, "back-8", new_key())

        assert code(device.prove(device.proof(challenge))) == (403, "E-CHALLENGE")

    def test_another_key_proves_nothing(
        self, api: RunningApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(renewal, "AUDITED_PER_MINUTE", 1000)  # other tests were refused too
        device = Enrolled.at(api, "back-9")

        assert code(device.prove(device.proof(signer=new_key()))) == (403, "E-RENEWAL-PROOF")
        with api.store.read() as tx:
            entries = audit.page(tx, subject="back-9")
        assert [row.details["code"] for row in entries if row.action == "device.renew_refused"] == [
            "E-RENEWAL-PROOF"
        ]

    def test_a_device_that_nobody_knows_is_refused_in_the_same_words(self, api: RunningApi) -> None:
        known, unknown = Enrolled.at(api, "back-10"), Enrolled(api, "back-11", new_key())
        refused = known.prove(known.proof(signer=new_key()))
        answer = unknown.prove(unknown.proof())

        assert code(answer) == code(refused)
        assert answer.json["detail"].replace("back-11", "back-10") == refused.json["detail"]

    def test_the_proof_binds_the_new_key(self, api: RunningApi) -> None:
        device = Enrolled.at(api, "back-12")
        proof = device.proof()
        proof["certificate_request"] = certificate_request(new_key(), device.name)

        assert code(device.prove(proof)) == (403, "E-RENEWAL-PROOF")

    def test_a_signed_message_of_the_device_is_no_proof(self, api: RunningApi) -> None:
        """A malicious broker has many signatures of that key, over what it could choose."""
        device = Enrolled.at(api, "back-13")
        proof = device.proof()
        payload = f"{FLEET}\0{device.name}\0{proof['challenge']}".encode()
        envelope = sign_as_device(PayloadType.EVENT_BATCH, payload, device.key, "keyid")
        proof["signature"] = envelope.signatures[0].sig.hex()

        assert code(device.prove(proof)) == (403, "E-RENEWAL-PROOF")

    def test_refusals_do_not_fill_the_audit_log(self, api: RunningApi) -> None:
        device = Enrolled(api, "back-14", new_key())
        for _ in range(renewal.AUDITED_PER_MINUTE + 5):
            device.prove(device.proof("AAAA"))

        with api.store.read() as tx:
            entries = audit.page(tx, subject="back-14", limit=1000)
        assert len(entries) <= renewal.AUDITED_PER_MINUTE

    def test_and_those_of_strangers_hide_no_revoked_device(self, api: RunningApi) -> None:
        stranger, device = Enrolled(api, "back-15", new_key()), Enrolled.at(api, "back-16")
        for _ in range(renewal.AUDITED_PER_MINUTE + 5):
            stranger.prove(stranger.proof("AAAA"))
        revoke(api, device.name)
        assert code(device.prove(device.proof())) == (403, "E-REVOKED")

        with api.store.read() as tx:
            entries = audit.page(tx, subject=device.name, limit=1000)
        assert entries[-1].details["code"] == "E-REVOKED"


def revoke(api: RunningApi, device: str) -> None:
    path = f"/v1/devices/{device}/revoke"
    assert api.ask("POST", path, by="alice", body={"reason": "stolen"}).status == 200


def test_every_certificate_ever_given_is_known(api: RunningApi) -> None:
    device = Enrolled.at(api, "known-1")
    device.renew()
    with api.store.read() as tx:
        count = device_certificates.count_since(tx, device.name, datetime.now(UTC) - timedelta(1))

    assert count == 2
    assert "device_certificates" in all_tables.metadata.tables
