"""Who this device is: a P-256 key made here, which never leaves, and its certificate."""

import hashlib
import ssl
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mailboat_agent.atomic_file import disk_errors, fsync_directory, replace_durably
from mailboat_schemas.enrolment import CERTIFICATE_CHAIN_BYTES_MAX, PEM_BYTES_MAX, Kind
from mailboat_schemas.errors import ConfigurationInvalid

SUCCESSOR_SUFFIX = ".next"
CONFIRMED_SUFFIX = ".confirmed"
# OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python's ssl does not name.
_NO_CHECK_TIME = 0x200000

_ENROLL = "run `mailboat-agent enroll` with the kit that an operator made for this device."


@dataclass
class Identity:
    """``keyid`` is the sha256, in hex, of the key's SubjectPublicKeyInfo in DER.

    Held by whoever signs; a renewal changes what it says (`become`), in the event loop's thread.
    """

    device: str
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate_pem: bytes = field(repr=False)
    keyid: str
    enrolment_number: int
    issued_at: datetime
    expires_at: datetime

    def become(self, other: "Identity") -> None:
        """Say from now on what ``other`` says, to everybody who holds this one."""
        for each in fields(self):
            setattr(self, each.name, getattr(other, each.name))

    def spans(self, now: datetime) -> bool:
        """Whether the certificate is in force by this clock; else one of the two is wrong."""
        return self.issued_at <= now <= self.expires_at


def make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key at ``path``; made and durable (0600) if there is none, so enrolling may be repeated.

    Raises:
        ConfigurationInvalid: what is there is not a P-256 key; it is not overwritten.
        DiskFull, DiskFailing
    """
    if path.exists():
        return read_key(path)
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
    return hashlib.sha256(_der(key)).hexdigest()


def key_der(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Its public half, as SubjectPublicKeyInfo in DER."""
    return _der(key.public_key())


def _der(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def load_identity(key_path: Path, certificate_path: Path) -> Identity:
    """
    Raises:
        ConfigurationInvalid: not enrolled, or key and certificate do not belong together.
        DiskFull, DiskFailing: a renewal was cut between its two files, and cannot be finished.
    """
    finish_exchange(key_path, certificate_path)
    pem = _read(certificate_path, CERTIFICATE_CHAIN_BYTES_MAX)
    return identity_of(read_key(key_path), pem, certificate_path)


def identity_of(key: ec.EllipticCurvePrivateKey, pem: bytes, certificate_path: Path) -> Identity:
    """What a key and a certificate make, wherever they are; the path is for the message.

    Raises:
        ConfigurationInvalid: they make no identity.
    """
    if len(pem) > CERTIFICATE_CHAIN_BYTES_MAX:
        raise _unusable(certificate_path, f"has more than {CERTIFICATE_CHAIN_BYTES_MAX} bytes")
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        public_key = certificate.public_key()
        device = _one_name(certificate, NameOID.COMMON_NAME)
        enrolment_number = int(_one_name(certificate, NameOID.SERIAL_NUMBER))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unusable(certificate_path, f"is no device certificate: {error}") from error
    if public_key != key.public_key():
        raise _unusable(certificate_path, "does not belong to the key of this device")
    return Identity(
        device=device,
        key=key,
        certificate_pem=pem,
        keyid=key_id(key.public_key()),
        enrolment_number=enrolment_number,
        issued_at=certificate.not_valid_before_utc,
        expires_at=certificate.not_valid_after_utc,
    )


def successor_of(path: Path) -> Path:
    """Where a new key or certificate waits until it takes the old one's place."""
    return path.with_name(path.name + SUCCESSOR_SUFFIX)


def confirmed_of(path: Path) -> Path:
    """Where a certificate waits that the controller counts on already: it must be taken."""
    return path.with_name(path.name + CONFIRMED_SUFFIX)


def finish_exchange(key_path: Path, certificate_path: Path) -> None:
    """The second half of `renewal.exchange`, if the power failed after the first: the new key is in
    its place, and the old certificate belongs to no key here.

    Raises:
        DiskFull, DiskFailing
    """
    confirmed = confirmed_of(certificate_path)
    if confirmed.exists() and not successor_of(key_path).exists():
        with disk_errors("exchanging the device certificate"):
            confirmed.replace(certificate_path)
            fsync_directory(certificate_path.parent)


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


def check_dates(context: ssl.SSLContext, *, check: bool) -> None:
    """Whether to hold the server's certificate against our clock.

    A device whose clock stands at 1970, or at 2100, must reach its controller to get a certificate
    and to say so. Then the fleet's CA and the host name are what is checked: the server could be
    one whose certificate has ended. It can withhold, as any network can; what is installed is
    decided by signed metadata alone.
    """
    flags = int(context.verify_flags) & ~_NO_CHECK_TIME
    context.verify_flags = ssl.VerifyFlags(flags if check else flags | _NO_CHECK_TIME)


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
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
