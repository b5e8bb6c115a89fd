import ssl
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.verification import PolicyBuilder, Store

from mailboat_controller.pki.certificates import (
    Holder,
    holder_of,
    public_key_of,
    public_key_of_request,
)
from mailboat_controller.pki.issuing import Authority, Issued
from mailboat_schemas.enrolment import PEM_BYTES_MAX, Kind
from mailboat_schemas.errors import ConfigurationInvalid, MalformedPayload, NotPermitted
from running_api import certificate_request

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "pki", "demo", now=NOON)


def parsed(issued: Issued) -> x509.Certificate:
    return x509.load_pem_x509_certificate(issued.certificate)


def issue(authority: Authority, key: ec.EllipticCurvePrivateKey, name: str = "anything") -> Issued:
    return authority.issue_device(
        certificate_request(key, name), device="dev-1", enrolment_number=42, now=NOON, days=90
    )


class TestTheAuthority:
    def test_is_the_same_after_a_restart(self, authority: Authority, tmp_path: Path) -> None:
        again = Authority.load(tmp_path / "pki")

        assert (again.fleet, again.ca_pem) == ("demo", authority.ca_pem)

    def test_is_never_written_over(self, authority: Authority, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationInvalid, match="already"):
            Authority.create(tmp_path / "pki", "demo", now=NOON)
        assert Authority.load(tmp_path / "pki").ca_pem == authority.ca_pem

    @pytest.mark.usefixtures("authority")
    def test_that_is_missing_or_damaged_is_explained(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationInvalid, match="mailboat init"):
            Authority.load(tmp_path / "elsewhere")
        (tmp_path / "pki" / "ca.key").write_bytes(b"\0" * 300)
        with pytest.raises(ConfigurationInvalid):
            Authority.load(tmp_path / "pki")

    def test_keeps_every_key_to_its_owner(self, authority: Authority, tmp_path: Path) -> None:
        authority.server_files(["localhost"], now=NOON)
        authority.controller_files(now=NOON)

        keys = sorted((tmp_path / "pki").glob("*.key"))
        assert [path.name for path in keys] == ["ca.key", "controller.key", "server.key"]
        assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}

    def test_may_sign_leaves_only(self, authority: Authority) -> None:
        ca = x509.load_pem_x509_certificate(authority.ca_pem)
        constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)

        assert constraints.critical
        assert (constraints.value.ca, constraints.value.path_length) == (True, 0)


class TestADevicesCertificate:
    def test_says_what_the_registry_says_not_what_the_request_says(
        self, authority: Authority
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        issued = issue(authority, key, name="controller")

        assert holder_of(issued.certificate) == Holder(
            kind=Kind.DEVICE, name="dev-1", fleet="demo", serial=issued.serial, enrolment_number=42
        )
        names = parsed(issued).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [
            "urn:mailboat:demo:device:dev-1"
        ]
        der = parsed(issued).public_bytes(serialization.Encoding.DER)
        assert holder_of(der).name == "dev-1"
        assert public_key_of(der) == public_key_of_request(certificate_request(key))

    def test_verifies_for_clients_and_not_as_a_server(self, authority: Authority) -> None:
        device = parsed(issue(authority, ec.generate_private_key(ec.SECP256R1())))
        ca = x509.load_pem_x509_certificate(authority.ca_pem)
        policy = PolicyBuilder().store(Store([ca])).time(NOON)

        policy.build_client_verifier().verify(device, [])
        usage = device.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [x509.ExtendedKeyUsageOID.CLIENT_AUTH]

    def test_begins_a_little_early_and_ends_when_told(self, authority: Authority) -> None:
        issued = issue(authority, ec.generate_private_key(ec.SECP256R1()))

        assert parsed(issued).not_valid_before_utc == NOON - timedelta(minutes=5)
        assert issued.expires_at == NOON + timedelta(days=90)

    def test_has_a_serial_of_its_own(self, authority: Authority) -> None:
        key = ec.generate_private_key(ec.SECP256R1())

        assert issue(authority, key).serial != issue(authority, key).serial


@pytest.mark.parametrize(
    "make_key",
    [
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    ],
    ids=["P-384", "RSA"],
)
def test_a_request_for_another_kind_of_key_is_refused(
    authority: Authority, make_key: Callable[[], object]
) -> None:
    with pytest.raises(MalformedPayload, match="P-256"):
        public_key_of_request(certificate_request(make_key()))


def test_a_request_whose_signature_does_not_hold_is_refused() -> None:
    request = x509.load_pem_x509_csr(
        certificate_request(ec.generate_private_key(ec.SECP256R1())).encode()
    )
    content = bytearray(request.public_bytes(serialization.Encoding.DER))
    at = content.index(b"anything")
    content[at : at + 8] = b"somebody"
    forged = x509.load_der_x509_csr(bytes(content)).public_bytes(serialization.Encoding.PEM)

    with pytest.raises(MalformedPayload, match="signature"):
        public_key_of_request(forged.decode())


@pytest.mark.parametrize("text", ["", "nonsense", "-----BEGIN CERTIFICATE REQUEST-----"])
def test_what_is_no_request_at_all_is_refused(text: str) -> None:
    with pytest.raises(MalformedPayload):
        public_key_of_request(text)
    with pytest.raises(MalformedPayload, match="longer"):
        public_key_of_request("x" * (PEM_BYTES_MAX + 1))


class TestCredentials:
    @pytest.mark.parametrize("kind", [Kind.CI, Kind.DASHBOARD])
    def test_name_their_holder(self, authority: Authority, kind: Kind) -> None:
        issued = authority.issue_credential(kind, "somebody", now=NOON)

        holder = holder_of(issued.certificate)
        assert (holder.kind, holder.name, str(holder)) == (kind, "somebody", f"{kind}:somebody")

    @pytest.mark.parametrize("name", ["controller", "broker", "../x", "Upper", "", "a" * 64])
    def test_do_not_take_names_that_mean_something_else(
        self, authority: Authority, name: str
    ) -> None:
        with pytest.raises(ConfigurationInvalid, match="cannot be the name"):
            authority.issue_credential(Kind.CI, name, now=NOON)

    def test_of_a_dashboard_may_be_grafanas(self, authority: Authority) -> None:
        issued = authority.issue_credential(Kind.DASHBOARD, "grafana", now=NOON)

        assert holder_of(issued.certificate).name == "grafana"
        with pytest.raises(ConfigurationInvalid):
            authority.issue_credential(Kind.CI, "grafana", now=NOON)


class TestOurOwnCertificates:
    def test_stay_until_thirty_days_before_their_end(self, authority: Authority) -> None:
        hosts = ["localhost", "127.0.0.1"]
        files = authority.server_files(hosts, now=NOON)
        first = files.certificate.read_bytes()
        authority.server_files(hosts, now=NOON + timedelta(days=397 - 31))
        assert files.certificate.read_bytes() == first

        authority.server_files(hosts, now=NOON + timedelta(days=397 - 30))
        assert files.certificate.read_bytes() != first

    def test_are_made_anew_for_other_hosts(self, authority: Authority) -> None:
        files = authority.server_files(["localhost"], now=NOON)
        first = files.certificate.read_bytes()
        authority.server_files(["localhost", "controller.example"], now=NOON)

        assert files.certificate.read_bytes() != first

    def test_are_made_anew_when_a_crash_left_a_key_without_certificate(
        self, authority: Authority
    ) -> None:
        files = authority.controller_files(now=NOON)
        files.certificate.unlink()
        authority.controller_files(now=NOON)

        assert holder_of(files.certificate.read_bytes()).kind is Kind.CONTROLLER

    @pytest.mark.parametrize("key", ["damaged", "of another pair"])
    def test_are_made_anew_when_the_key_does_not_fit(self, authority: Authority, key: str) -> None:
        files = authority.server_files(["localhost"], now=NOON)
        first = files.certificate.read_bytes()
        other = authority.issue_server(["localhost"], now=NOON)
        files.key.write_bytes(b"" if key == "damaged" else other.key or b"")

        authority.server_files(["localhost"], now=NOON)

        assert files.certificate.read_bytes() != first
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key)


def test_a_certificate_of_another_layout_has_no_holder() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dev-1")])
    foreign = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOON)
        .not_valid_after(NOON + timedelta(days=1))
        .sign(key, None)
    )

    with pytest.raises(NotPermitted, match="organizationalUnitName"):
        holder_of(foreign.public_bytes(serialization.Encoding.DER))
