"""Who this device is: a P-256 key made here, which never leaves, and its certificate."""

import hashlib
import ssl
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mailboat_agent.atomic_file import disk_errors, replace_durably
from mailboat_schemas.enrolment import CERTIFICATE_CHAIN_BYTES_MAX, PEM_BYTES_MAX, Kind
from mailboat_schemas.errors import ConfigurationInvalid

_ENROLL = "run `mailboat-agent enroll` with the kit that an operator made for this device."


@dataclass(frozen=True)
class Identity:
    """``keyid`` is the sha256, in hex, of the key's SubjectPublicKeyInfo in DER."""

    device: str
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate_pem: bytes = field(repr=False)
    keyid: str
    enrolment_number: int
    expires_at: datetime


def make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key at ``path``; made and durable (0600) if there is none, so enrolling may be repeated.

    Raises:
        ConfigurationInvalid: what is there is not a P-256 key; it is not overwritten.
        DiskFull, DiskFailing
    """
    if path.exists():
        return _read_key(path)
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with disk_errors("making the device key"):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    replace_durably(path, pem, mode=0o600)
    return key


def certificate_request(key: ec.EllipticCurvePrivateKey, device: str, fleet: str) -> bytes:
    """PKCS#10 in PEM. The controller takes the key from it and decides the names itself."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, device),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, fleet),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, Kind.DEVICE),
        ]
    )
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def key_id(key: ec.EllipticCurvePublicKey) -> str:
    """The sha256, in hex, of the key's SubjectPublicKeyInfo in DER."""
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def load_identity(key_path: Path, certificate_path: Path) -> Identity:
    """
    Raises:
        ConfigurationInvalid: not enrolled, or key and certificate do not belong together.
    """
    key = _read_key(key_path)
    pem = _read(certificate_path, CERTIFICATE_CHAIN_BYTES_MAX)
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        public_key = certificate.public_key()
        device = _one_name(certificate, NameOID.COMMON_NAME)
        enrolment_number = int(_one_name(certificate, NameOID.SERIAL_NUMBER))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unusable(certificate_path, f"is no device certificate: {error}") from error
    if public_key != key.public_key():
        raise _unusable(certificate_path, f"does not belong to the key {key_path.name}")
    return Identity(
        device=device,
        key=key,
        certificate_pem=pem,
        keyid=key_id(key.public_key()),
        enrolment_number=enrolment_number,
        expires_at=certificate.not_valid_after_utc,
    )


def tls_context(
    ca_path: Path, certificate_path: Path | None = None, key_path: Path | None = None
) -> ssl.SSLContext:
    """TLS 1.2 or newer, the fleet's own CA and no other, host names checked.

    Raises:
        ConfigurationInvalid: a file is missing or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks host name and certificate
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cafile=ca_path)
    except (OSError, ssl.SSLError) as error:
        raise _unusable(ca_path, f"holds no CA certificate: {error}") from error
    if certificate_path is not None:
        try:
            context.load_cert_chain(certificate_path, key_path)
        except (OSError, ssl.SSLError) as error:
            raise _unusable(certificate_path, f"cannot be used with its key: {error}") from error
    return context


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(_read(path, PEM_BYTES_MAX), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable(path, "is no private key without a password") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _unusable(path, "is not a P-256 key")
    return key


def _one_name(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    found = certificate.subject.get_attributes_for_oid(oid)
    if len(found) != 1:
        raise ValueError(f"its subject names {len(found)} times {oid._name}")
    return str(found[0].value)


def _read(path: Path, bytes_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(bytes_max + 1)
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror}") from error
    if len(content) > bytes_max:
        raise _unusable(path, f"has more than {bytes_max} bytes")
    return content


def _unusable(path: Path, problem: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(f"{path} {problem}.", next_step=_ENROLL)
