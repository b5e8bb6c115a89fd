"""What certificates and certificate requests say: who holds them, and which key they bind.

The subject's layout is that of ``mailboat_schemas/enrolment.py``. Nothing here decides whether a
certificate is ours; the TLS handshake against our CA does that.
"""

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mailboat_schemas.enrolment import PEM_BYTES_MAX, Kind
from mailboat_schemas.errors import MalformedPayload, NotPermitted


class WrongRequestName(NotPermitted):
    """A certificate request in another's name."""

    code = "E-REQUEST-NAME"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who a certificate of ours speaks for. ``serial`` is lower-case hex."""

    kind: Kind
    name: str
    fleet: str
    serial: str
    enrolment_number: int  # 0 for everybody but devices

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


def holder_of(certificate: bytes) -> Holder:
    """Who a certificate (PEM or DER) speaks for. Says nothing about whether our CA signed it:
    that is the TLS handshake's work.

    Raises:
        NotPermitted: its subject is not of our layout.
    """
    try:
        if certificate.startswith(b"-----BEGIN"):
            parsed = x509.load_pem_x509_certificate(certificate)
        else:
            parsed = x509.load_der_x509_certificate(certificate)
        number = parsed.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)
        return Holder(
            kind=Kind(single_value(parsed.subject, NameOID.ORGANIZATIONAL_UNIT_NAME)),
            name=single_value(parsed.subject, NameOID.COMMON_NAME),
            fleet=single_value(parsed.subject, NameOID.ORGANIZATION_NAME),
            serial=serial_of(parsed),
            enrolment_number=int(number[0].value) if number else 0,
        )
    except ValueError as error:
        raise NotPermitted(
            f"This certificate does not say who its holder is: {error}.",
            next_step="use a certificate that `mailboat credential issue` or enrolment made.",
        ) from error


def public_key_of(certificate: bytes) -> bytes:
    """The key of a certificate (DER), as SubjectPublicKeyInfo in DER."""
    return _spki(x509.load_der_x509_certificate(certificate).public_key())


def end_of(certificate: bytes) -> datetime:
    """When a certificate (DER) ends."""
    return x509.load_der_x509_certificate(certificate).not_valid_after_utc


def public_key_of_request(request_pem: str) -> bytes:
    """The key a certificate request asks for, as SubjectPublicKeyInfo in DER.

    Raises:
        MalformedPayload: unreadable, not signed by its own key, or another kind of key than P-256.
    """
    return _spki(load_request(request_pem))


def require_request_for(request_pem: str, device: str) -> None:
    """A renewal is for the device that asks, and its request says so.

    Raises:
        WrongRequestName: it names somebody else. MalformedPayload: it is unreadable.
    """
    load_request(request_pem)
    subject = x509.load_pem_x509_csr(request_pem.encode()).subject
    names = [str(each.value) for each in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [device]:
        raise WrongRequestName(
            f"Device {device} asks for a certificate in the name of {', '.join(names)[:200]!r}.",
            next_step="a device renews its own certificate alone; if nobody meddled with it, "
            "compare the versions of agent and controller.",
        )


def load_request(request_pem: str) -> ec.EllipticCurvePublicKey:
    problem = f"longer than {PEM_BYTES_MAX} bytes"
    if len(request_pem) <= PEM_BYTES_MAX:
        try:
            request = x509.load_pem_x509_csr(request_pem.encode())
            key = request.public_key()
            if not request.is_signature_valid:
                problem = "its signature does not hold, so its sender may not have the key"
            elif not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
                problem = "its key is not on the curve P-256"
            else:
                return key
        except (ValueError, TypeError) as error:
            problem = str(error)
    raise MalformedPayload(
        f"This certificate request cannot be used: {problem[:300]}.",
        next_step="make the key and request with `mailboat-agent enroll`.",
    )


def single_value(name: x509.Name, oid: x509.ObjectIdentifier) -> str:
    values = name.get_attributes_for_oid(oid)
    if len(values) != 1:
        raise ValueError(f"{oid._name} appears {len(values)} times")
    return str(values[0].value)


def serial_of(certificate: x509.Certificate) -> str:
    return format(certificate.serial_number, "x")


def _spki(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise MalformedPayload(
            "This certificate's key is not on an elliptic curve.",
            next_step="use a certificate that this fleet's controller issued.",
        )
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
