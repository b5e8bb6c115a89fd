"""Renewing devices' certificates: over mTLS, or with proof of the key after the certificate's end.

A renewal with a new key takes two steps: the certificate is given and both keys count; when the
device has confirmed that it has stored the new one, the old one counts no more. Whatever is lost in
between, the device still has a key that counts.
"""

import base64
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from mailboat_controller.access.rate_limits import RateLimited
from mailboat_controller.pki.certificates import public_key_of_request, require_request_for
from mailboat_controller.pki.issuing import Authority
from mailboat_controller.pki.renewal_challenges import CHALLENGE_LIFETIME, Challenges
from mailboat_controller.store import audit, device_certificates, devices
from mailboat_controller.store.devices import DeviceRow
from mailboat_controller.store.engine import Store
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.enrolment import (
    Challenge,
    ProvenRenewalRequest,
    RenewalResponse,
    fingerprint,
    renewal_proof,
)
from mailboat_schemas.errors import MailboatError, NotPermitted

# Of one device: room for a bad day of lost answers, none for filling the table.
RENEWALS_PER_HOUR_MAX = 12
AUDITED_PER_MINUTE = 10  # refusals of one code: what strangers cause hides no revoked device
_HOUR = timedelta(hours=1)
_MINUTE = timedelta(minutes=1)


class RenewalRefused(NotPermitted):
    """The caller has not shown to be the device. Whether there is such a device is not told."""

    code = "E-RENEWAL-PROOF"


class DeviceRevoked(NotPermitted):
    code = "E-REVOKED"


class CertificateTooOld(NotPermitted):
    """It ended longer ago than certificates are renewed for."""

    code = "E-CERTIFICATE-TOO-OLD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    fleet: str
    certificate_days: int
    grace_days: int


class Renewals:
    def __init__(self, store: Store, authority: Authority, terms: Terms) -> None:
        self._store = store
        self._authority = authority
        self._terms = terms
        self._challenges = Challenges()
        self._audited: dict[str, list[datetime]] = {}  # by code

    # --- with the certificate that the device has ------------------------------------------------

    def renew(self, device: str, request_pem: str, *, now: datetime) -> RenewalResponse:
        """For a device that the TLS handshake and the registry have found to be this one.

        Raises:
            WrongRequestName, DeviceRevoked, MalformedPayload
            Conflict: the key is another device's. RateLimited: too often.
        """
        require_request_for(request_pem, device)
        with self._store.transaction() as tx:
            return self._renew(tx, device, request_pem, now, proof="certificate")

    def confirm(self, device: str, public_key: bytes, *, now: datetime) -> bool:
        """The device has stored its new certificate, for it is here with that key. May repeat.

        Returns:
            Whether another key counts from now on.

        Raises:
            DeviceRevoked
        """
        with self._store.transaction() as tx:
            row = devices.get(tx, device)
            _refuse_revoked(row)
            changed = device_certificates.confirm_key(tx, row, public_key, now)
            if changed:
                audit.append(
                    tx,
                    at=now,
                    actor=f"device:{device}",
                    action="device.key",
                    subject=device,
                    reason="it came with its new key, so the old one counts no more",
                    details={
                        "before": fingerprint(row.public_key),
                        "after": fingerprint(public_key),
                        "public_key": base64.b64encode(public_key).decode(),
                    },
                )
            return changed

    # --- after its end ---------------------------------------------------------------------------

    def challenge(self, device: str, *, now: datetime) -> Challenge:
        seconds = int(CHALLENGE_LIFETIME.total_seconds())
        return Challenge(challenge=self._challenges.give(device, now), seconds=seconds)

    def renew_proven(self, request: ProvenRenewalRequest, *, now: datetime) -> RenewalResponse:
        """For whoever signs the challenge with the key that is registered for the device.

        Raises:
            ChallengeRefused, RenewalRefused, DeviceRevoked, CertificateTooOld, WrongRequestName
            Conflict, RateLimited, MalformedPayload: see `renew`.
        """
        try:
            self._challenges.check(request.challenge, request.device, now)
            require_request_for(request.certificate_request, request.device)
            with self._store.transaction() as tx:
                row = self._proven(tx, request)
                # Spent before anything else can fail: one signature, one attempt.
                self._challenges.use(request.challenge, now)
                _refuse_revoked(row)
                self._refuse_old(row, now)
                return self._renew(tx, row.device, request.certificate_request, now, proof="key")
        except NotPermitted as refusal:
            self._note_refusal(request.device, refusal, now)
            raise

    def _proven(self, tx: Transaction, request: ProvenRenewalRequest) -> DeviceRow:
        row = devices.by_name(tx, request.device)
        keys = () if row is None else (row.public_key, row.next_public_key)
        content = renewal_proof(
            fleet=self._terms.fleet,
            device=request.device,
            challenge=request.challenge,
            certificate_request=request.certificate_request,
        )
        for key in keys:
            if row is not None and key is not None and _signed(key, request.signature, content):
                return row
        raise RenewalRefused(
            f"The proof for device {request.device} does not hold.",
            next_step="if its key was lost or replaced, enrol it under another name.",
        )

    def _refuse_old(self, row: DeviceRow, now: datetime) -> None:
        ended = row.certificate_expires_at
        if now - ended > timedelta(days=self._terms.grace_days):
            raise CertificateTooOld(
                f"The certificate of device {row.device} ended at {ended:%Y-%m-%d}, more than "
                f"{self._terms.grace_days} days ago.",
                next_step="raise renewal_grace_days for a while if the device is to come back, or "
                "enrol it under another name.",
            )

    # --- both ------------------------------------------------------------------------------------

    def _renew(
        self, tx: Transaction, device: str, request_pem: str, now: datetime, *, proof: str
    ) -> RenewalResponse:
        row = devices.get(tx, device)
        _refuse_revoked(row)
        if device_certificates.count_since(tx, device, now - _HOUR) >= RENEWALS_PER_HOUR_MAX:
            raise RateLimited(
                f"Device {device} was given {RENEWALS_PER_HOUR_MAX} certificates within an hour.",
                next_step="nothing, it tries again later; if it repeats, look whether its disk "
                "is full, or whether two machines use its key.",
                retry_after=_HOUR,
            )
        public_key = public_key_of_request(request_pem)
        device_certificates.refuse_key_of_another(tx, device, public_key)
        rival = row.next_public_key
        issued = self._authority.issue_device(
            request_pem,
            device=device,
            enrolment_number=row.enrolment_number,
            now=now,
            days=self._terms.certificate_days,
        )
        device_certificates.record(
            tx,
            device,
            serial=issued.serial,
            public_key=public_key,
            issued_at=now,
            expires_at=issued.expires_at,
        )
        device_certificates.offer_key(tx, row, public_key)
        audit.append(
            tx,
            at=now,
            actor=f"device:{device}",
            action="device.renew",
            subject=device,
            reason=_conflict(rival, public_key),
            details={
                "certificate_serial": issued.serial,
                "expires_at": issued.expires_at.isoformat(),
                "proof": proof,
                "fingerprint": fingerprint(public_key),
                "public_key": base64.b64encode(public_key).decode(),
            },
        )
        return RenewalResponse(
            device=device,
            certificate=issued.certificate.decode(),
            confirm=public_key != row.public_key,
        )

    def _note_refusal(self, device: str, refusal: MailboatError, now: datetime) -> None:
        """In the audit log, but not more than a few a minute."""
        lately = [at for at in self._audited.get(refusal.code, ()) if now - at < _MINUTE]
        self._audited[refusal.code] = lately
        if len(lately) >= AUDITED_PER_MINUTE:
            return
        lately.append(now)
        with self._store.transaction() as tx:
            audit.append(
                tx,
                at=now,
                actor="stranger",
                action="device.renew_refused",
                subject=device,
                reason=refusal.what,
                details={"code": refusal.code},
            )


def _conflict(rival: bytes | None, public_key: bytes) -> str:
    """A key that was offered and never confirmed, and now another: a device that lost its disk's
    newest file, or two machines with one identity."""
    if rival is None or rival == public_key:
        return "before the end of its certificate, or with proof of its key after that"
    return f"a key that was not confirmed is replaced: {fingerprint(rival)}"


def _refuse_revoked(row: DeviceRow) -> None:
    if row.revoked:
        raise DeviceRevoked(
            f"Device {row.device} is revoked.",
            next_step="if that was a mistake, enrol it anew under another name.",
        )


def _signed(public_key: bytes, signature: str, content: bytes) -> bool:
    key = load_der_public_key(public_key)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(bytes.fromhex(signature), content, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True
