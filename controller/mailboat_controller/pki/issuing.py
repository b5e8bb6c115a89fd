"""The fleet's own certificate authority: one CA, and a certificate for everybody who connects.

Keys are P-256, all of them: Ed25519 is refused by some TLS stacks and secure elements, RSA costs
small devices more, and a device signs its events with the same key (ECDSA, see ``envelope.py``).
Who a certificate speaks for stands in its subject; ``mailboat_schemas/enrolment.py`` has the
layout. The broker takes the common name as user name whatever the kind, so a name belongs to one
holder of one kind: the callers check that against the registry before they ask for a certificate.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mailboat_controller.durable_file import PUBLIC_MODE, replace_durably
from mailboat_controller.pki import profile
from mailboat_controller.pki.certificates import load_request, serial_of, single_value
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.errors import ConfigurationInvalid
from mailboat_schemas.names import INGEST_NAMES, RESERVED_NAMES, is_label

CA_LIFETIME = timedelta(days=20 * 365)  # a new one means visiting every device
CREDENTIAL_DAYS = 365
SERVER_DAYS = 397  # what browsers and some TLS stacks accept at most
RENEW_SERVER_WITHIN = timedelta(days=30)
CONTROLLER_NAME = "controller"
STAND_IN_DAYS = 1

_CA_FILE: Final = "ca.pem"
_CA_KEY_FILE: Final = "ca.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate (PEM) fresh from the CA. ``key`` is None where the holder keeps it."""

    certificate: bytes
    key: bytes | None
    serial: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Paths for a TLS library: our CA, and one certificate with its key."""

    ca: Path
    certificate: Path
    key: Path


def files_of(directory: Path, name: str) -> TlsFiles:
    """Where a certificate of our own is, in the directory of the CA."""
    return TlsFiles(
        ca=directory / _CA_FILE,
        certificate=directory / f"{name}.pem",
        key=directory / f"{name}.key",
    )


class Authority:
    """The CA of one fleet, on this disk. Its key is the directory's secret; back it up."""

    def __init__(
        self, directory: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ) -> None:
        self._directory = directory
        self._certificate = certificate
        self._key = key
        self.fleet = single_value(certificate.subject, NameOID.ORGANIZATION_NAME)

    @classmethod
    def create(cls, directory: Path, fleet: str, *, now: datetime) -> "Authority":
        """Make a new CA in an empty directory.

        Raises:
            ConfigurationInvalid: there is one already; it is never written over.
        """
        if (directory / _CA_FILE).exists() or (directory / _CA_KEY_FILE).exists():
            raise ConfigurationInvalid(
                f"There is a certificate authority in {directory} already.",
                next_step="use it, or choose another data directory; replacing it would lock "
                "every enrolled device out.",
            )
        key = ec.generate_private_key(ec.SECP256R1())
        subject = profile.subject(fleet=fleet, name=f"{fleet} mailboat CA", kind=None)
        certificate = (
            profile.builder(subject, subject, key.public_key(), key.public_key(), now)
            .not_valid_after(now + CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(profile.key_usage(ca=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The key first: a crash in between leaves no certificate that nobody can use.
        replace_durably(directory / _CA_KEY_FILE, _key_pem(key))
        replace_durably(directory / _CA_FILE, _pem(certificate), mode=PUBLIC_MODE)
        return cls(directory, certificate, key)

    @classmethod
    def load(cls, directory: Path) -> "Authority":
        """
        Raises:
            ConfigurationInvalid: no readable CA there.
        """
        try:
            certificate = x509.load_pem_x509_certificate((directory / _CA_FILE).read_bytes())
            content = (directory / _CA_KEY_FILE).read_bytes()
            key = serialization.load_pem_private_key(content, password=None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101  we made no other
        except (OSError, ValueError, TypeError, AssertionError) as error:
            raise ConfigurationInvalid(
                f"The certificate authority in {directory} cannot be read: {error}.",
                next_step="make one with `mailboat init`, or restore the directory from a backup.",
            ) from error
        return cls(directory, certificate, key)

    @property
    def ca_path(self) -> Path:
        return self._directory / _CA_FILE

    @property
    def ca_pem(self) -> bytes:
        return _pem(self._certificate)

    def issue_device(
        self, request_pem: str, *, device: str, enrolment_number: int, now: datetime, days: int
    ) -> Issued:
        """A device's certificate over the key of its request. The request's subject is ignored.

        Raises:
            MalformedPayload: see `certificates.public_key_of_request`.
        """
        public_key = load_request(request_pem)
        certificate = self._client(
            public_key, Kind.DEVICE, device, now, days, enrolment_number=enrolment_number
        )
        return self._issued(certificate, None)

    def issue_credential(
        self, kind: Kind, name: str, *, now: datetime, days: int = CREDENTIAL_DAYS
    ) -> Issued:
        """Key and certificate for a pipeline, a person, a dashboard or the controller itself.

        Raises:
            ConfigurationInvalid: not a name for this kind.
        """
        _refuse_name(kind, name)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._client(key.public_key(), kind, name, now, days)
        return self._issued(certificate, key)

    def issue_stand_in(self, name: str, *, now: datetime) -> Issued:
        """Key and certificate of a holder's name, for us: who connects with it takes over, and
        ends, the session that the holder has at the broker. The API knows no such key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._client(key.public_key(), Kind.CONTROLLER, name, now, STAND_IN_DAYS)
        return self._issued(certificate, key)

    def revocation_list(
        self, serials: Iterable[str], *, now: datetime, after: datetime | None = None
    ) -> bytes:
        """The list (PEM) of certificates that nobody may use any more.

        Args:
            serials: lower-case hex.
            after: when the list before was made. A broker that holds both takes the newer one, and
                seconds are all that a list tells.
        """
        made_at = now - profile.BACKDATE
        if after is not None:
            made_at = max(made_at, after + timedelta(seconds=1))
        # It never ends before the CA does: a broker that could not be told a newer one for a while
        # would refuse everybody.
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(made_at)
            .next_update(self._certificate.not_valid_after_utc)
        )
        for serial in serials:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(int(serial, 16))
                .revocation_date(made_at)
                .build()
            )
        signed = builder.sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    def issue_bridge(self, request_pem: str, site: str, *, now: datetime) -> Issued:
        """A site's certificate over the key of its request. The request's subject is ignored.

        Raises:
            MalformedPayload: see `certificates.public_key_of_request`.
        """
        public_key = load_request(request_pem)
        return self._issued(self._client(public_key, Kind.SITE, site, now, CREDENTIAL_DAYS), None)

    def issue_site_server(self, request_pem: str, hosts: Sequence[str], *, now: datetime) -> Issued:
        """Likewise for the listeners of a site's broker and cache."""
        return self._issued(self._server(load_request(request_pem), hosts, now), None)

    def issue_server(self, hosts: Sequence[str], *, now: datetime) -> Issued:
        """Key and certificate for our own listeners. ``hosts``: DNS names or addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self._issued(self._server(key.public_key(), hosts, now), key)

    def _server(
        self, public_key: ec.EllipticCurvePublicKey, hosts: Sequence[str], now: datetime
    ) -> x509.Certificate:
        subject = profile.subject(fleet=self.fleet, name=hosts[0][:64], kind=Kind.SERVER)
        names = x509.SubjectAlternativeName([profile.general_name(host) for host in hosts])
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        return (
            self._leaf(subject, public_key, now, SERVER_DAYS)
            .add_extension(names, critical=False)
            .add_extension(usage, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def server_files(self, hosts: Sequence[str], *, now: datetime) -> TlsFiles:
        """The server certificate on disk, made anew when it ends soon or names other hosts."""
        files = self._files("server")
        wanted = x509.SubjectAlternativeName([profile.general_name(host) for host in hosts])
        held = _held(files)
        fresh = held is not None and held.not_valid_after_utc - now > RENEW_SERVER_WITHIN
        if held is None or not fresh or profile.names(held) != wanted:
            self._keep(files, self.issue_server(hosts, now=now))
        return files

    def controller_files(self, *, now: datetime) -> TlsFiles:
        """The controller's own client certificate for the broker, renewed likewise."""
        files = self._files(CONTROLLER_NAME)
        held = _held(files)
        if held is None or held.not_valid_after_utc - now <= RENEW_SERVER_WITHIN:
            self._keep(files, self.issue_credential(Kind.CONTROLLER, CONTROLLER_NAME, now=now))
        return files

    def ingest_files(self, name: str, *, now: datetime) -> TlsFiles:
        """Likewise of a process that takes in what devices say; the API does not know it."""
        files = self._files(name)
        held = _held(files)
        if held is None or held.not_valid_after_utc - now <= RENEW_SERVER_WITHIN:
            self._keep(files, self.issue_credential(Kind.CONTROLLER, name, now=now))
        return files

    def _files(self, name: str) -> TlsFiles:
        return files_of(self._directory, name)

    @staticmethod
    def _keep(files: TlsFiles, issued: Issued) -> None:
        # A crash in between leaves a key without its certificate: the old certificate goes first,
        # so that the next start finds none and makes both again.
        files.certificate.unlink(missing_ok=True)
        replace_durably(files.key, issued.key or b"")
        replace_durably(files.certificate, issued.certificate, mode=PUBLIC_MODE)

    def _client(
        self,
        public_key: ec.EllipticCurvePublicKey,
        kind: Kind,
        name: str,
        now: datetime,
        days: int,
        *,
        enrolment_number: int = 0,
    ) -> x509.Certificate:
        subject = profile.subject(fleet=self.fleet, name=name, kind=kind, number=enrolment_number)
        uri = x509.UniformResourceIdentifier(f"urn:mailboat:{self.fleet}:{kind}:{name}")
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        return (
            self._leaf(subject, public_key, now, days)
            .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
            .add_extension(usage, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _leaf(
        self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey, now: datetime, days: int
    ) -> x509.CertificateBuilder:
        ends = min(now + timedelta(days=days), self._certificate.not_valid_after_utc)
        issuer = self._certificate.subject
        return (
            profile.builder(subject, issuer, public_key, self._key.public_key(), now)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(profile.key_usage(ca=False), critical=True)
        )

    @staticmethod
    def _issued(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey | None) -> Issued:
        return Issued(
            certificate=_pem(certificate),
            key=None if key is None else _key_pem(key),
            serial=serial_of(certificate),
            expires_at=certificate.not_valid_after_utc,
        )


def _refuse_name(kind: Kind, name: str) -> None:
    own = {Kind.CONTROLLER: {CONTROLLER_NAME, *INGEST_NAMES}, Kind.DASHBOARD: {"grafana"}}
    if not is_label(name) or (name in RESERVED_NAMES and name not in own.get(kind, ())):
        raise ConfigurationInvalid(
            f"{name!r} cannot be the name of a {kind}.",
            next_step="use lower-case letters, digits and inner hyphens, at most 63 characters, "
            f"and none of {', '.join(sorted(RESERVED_NAMES))}.",
        )


def _held(files: TlsFiles) -> x509.Certificate | None:
    """The certificate on disk; None when it or its key is missing, damaged or of another pair:
    either way both are made again."""
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        key = serialization.load_pem_private_key(files.key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        return None
    return certificate if key.public_key() == certificate.public_key() else None


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
