"""The device's key never changes by accident, and only a matching certificate is an identity."""

import hashlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from mailboat_agent.identity.device_key import (
    certificate_request,
    load_identity,
    make_key,
    tls_context,
)
from mailboat_controller.pki.issuing import Authority
from mailboat_schemas.errors import ConfigurationInvalid

NOW = datetime.now(UTC)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca", "demo", now=NOW)


def enrol(authority: Authority, directory: Path, device: str = "kiosk-7") -> tuple[Path, Path]:
    key_path, certificate_path = directory / "device.key", directory / "device.pem"
    request = certificate_request(make_key(key_path), device, "demo").decode()
    issued = authority.issue_device(request, device=device, enrolment_number=42, now=NOW, days=90)
    certificate_path.write_bytes(issued.certificate)
    return key_path, certificate_path


def test_an_enrolled_device_knows_its_name_its_number_and_its_key(
    authority: Authority, tmp_path: Path
) -> None:
    key_path, certificate_path = enrol(authority, tmp_path)

    identity = load_identity(key_path, certificate_path)

    der = identity.key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert (identity.device, identity.enrolment_number) == ("kiosk-7", 42)
    assert identity.keyid == hashlib.sha256(der).hexdigest()
    assert identity.certificate_pem == certificate_path.read_bytes()
    assert abs(identity.expires_at - (NOW + timedelta(days=90))) < timedelta(minutes=1)


def test_a_key_is_made_once_and_read_from_then_on(tmp_path: Path) -> None:
    first = make_key(tmp_path / "new" / "device.key")
    second = make_key(tmp_path / "new" / "device.key")

    assert first.private_numbers() == second.private_numbers()
    assert (tmp_path / "new" / "device.key").stat().st_mode & 0o777 == 0o600
    assert isinstance(first.curve, ec.SECP256R1)


def test_a_key_file_that_cannot_be_used_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "device.key"
    path.write_bytes(b"")

    with pytest.raises(ConfigurationInvalid):
        make_key(path)

    assert path.read_bytes() == b""


def test_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "device.key"
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        with pytest.raises(ConfigurationInvalid, match="not a P-256 key"):
            make_key(path)


def test_a_request_is_signed_by_the_key_and_names_device_and_fleet(tmp_path: Path) -> None:
    key = make_key(tmp_path / "device.key")

    request = x509.load_pem_x509_csr(certificate_request(key, "kiosk-7", "demo"))

    assert request.is_signature_valid
    assert request.public_key() == key.public_key()
    subject = {part.oid: part.value for part in request.subject}
    assert subject[NameOID.COMMON_NAME] == "kiosk-7"
    assert subject[NameOID.ORGANIZATION_NAME] == "demo"


def test_a_device_that_is_not_enrolled_is_told_how_to(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match="mailboat-agent enroll"):
        load_identity(tmp_path / "device.key", tmp_path / "device.pem")


def test_a_certificate_for_another_key_is_refused(authority: Authority, tmp_path: Path) -> None:
    key_path, _ = enrol(authority, tmp_path / "one")
    _, certificate_path = enrol(authority, tmp_path / "two")

    with pytest.raises(ConfigurationInvalid, match="does not belong to the key"):
        load_identity(key_path, certificate_path)


def test_a_certificate_without_an_enrolment_number_is_no_identity(tmp_path: Path) -> None:
    key = make_key(tmp_path / "device.key")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kiosk-7")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (tmp_path / "device.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    with pytest.raises(ConfigurationInvalid, match="no device certificate"):
        load_identity(tmp_path / "device.key", tmp_path / "device.pem")


@pytest.mark.parametrize(
    "content", [b"", bytes(500), b"-----BEGIN CERTIFICATE-----\n", b"x" * 70_000]
)
def test_a_certificate_file_of_anything_else_is_refused(tmp_path: Path, content: bytes) -> None:
    make_key(tmp_path / "device.key")
    (tmp_path / "device.pem").write_bytes(content)

    with pytest.raises(ConfigurationInvalid):
        load_identity(tmp_path / "device.key", tmp_path / "device.pem")


def test_the_tls_context_checks_names_against_the_own_ca_alone(
    authority: Authority, tmp_path: Path
) -> None:
    key_path, certificate_path = enrol(authority, tmp_path)

    context = tls_context(authority.ca_path, certificate_path, key_path)

    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.cert_store_stats() == {"x509": 1, "crl": 0, "x509_ca": 1}


def test_a_missing_ca_or_a_foreign_key_is_said_with_its_path(
    authority: Authority, tmp_path: Path
) -> None:
    key_path, certificate_path = enrol(authority, tmp_path / "one")
    other_key, _ = enrol(authority, tmp_path / "two")

    with pytest.raises(ConfigurationInvalid, match="absent"):
        tls_context(tmp_path / "absent.pem")
    with pytest.raises(ConfigurationInvalid, match="absent"):
        tls_context(authority.ca_path, tmp_path / "absent.pem", key_path)
    with pytest.raises(ConfigurationInvalid, match="cannot be used with its key"):
        tls_context(authority.ca_path, certificate_path, other_key)
    with pytest.raises(ConfigurationInvalid, match="holds no CA"):
        tls_context(key_path)
