"""How a device becomes known: an operator's kit, the device's request, the controller's answer.

The kit is handed to the device by a person, on a channel they trust; it carries the one-time token
and the trust anchors, so neither ever stands on a command line. The key is made on the device and
never leaves it.

Certificates name their holder: CN = device, pipeline or dashboard name; O = fleet;
OU = device | ci | dashboard | site | controller | server; serialNumber = enrolment number
(devices); SAN URI = ``urn:mailboat:<fleet>:<kind>:<name>``.

Certificates are short-lived and renewed over mTLS. A device whose certificate has ended proves that
it has the registered key by signing a fresh challenge; no clock of the device's takes part.
"""

import hashlib
from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mailboat_schemas.envelope import pre_authentication_encoding
from mailboat_schemas.names import ClassName, DeviceId, FleetId, Label, SiteName

PEM_BYTES_MAX = 16 * 1024
CERTIFICATE_CHAIN_BYTES_MAX = 64 * 1024
CHALLENGE_LENGTH_MAX = 256
# DSSE's encoding keeps this signature apart from those over events and reports of the same key.
RENEWAL_PROOF = "application/vnd.mailboat.renewal-proof.v1"


class Kind(StrEnum):
    """Who a certificate speaks for; its OU."""

    DEVICE = "device"
    CI = "ci"
    DASHBOARD = "dashboard"
    SITE = "site"  # the broker of a site, for its bridge to the centre
    CONTROLLER = "controller"
    SERVER = "server"


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class EnrolmentKit(_Message):
    """A JSON file from operator to device. Contains a secret until it is used or expires."""

    fleet: FleetId
    hardware_class: ClassName
    site: SiteName
    labels: dict[Label, str] = Field(default_factory=dict, max_length=32)
    api_url: str = Field(max_length=512, examples=["https://controller.example:8443"])
    mqtt_host: str = Field(max_length=253)
    mqtt_port: int = Field(ge=1, le=65535)
    ca: str = Field(max_length=CERTIFICATE_CHAIN_BYTES_MAX, description="PEM")
    trust_root: str = Field(max_length=1 << 20, description="the factory root.json, as text")
    token: str = Field(min_length=20, max_length=200)
    approval: bool = Field(default=False, description="a person compares the key's fingerprint")
    mirrors: tuple[str, ...] = Field(
        default=(), max_length=8, description="caches of the site, to ask before the controller"
    )


class EnrolmentRequest(_Message):
    token: str = Field(min_length=20, max_length=200)
    device: DeviceId
    certificate_request: str = Field(max_length=PEM_BYTES_MAX, description="PKCS#10, PEM")


class EnrolmentResponse(_Message):
    device: DeviceId
    enrolment_number: int = Field(ge=1)
    hardware_class: ClassName
    site: SiteName
    labels: dict[Label, str] = Field(default_factory=dict)
    certificate: str = Field(max_length=CERTIFICATE_CHAIN_BYTES_MAX, description="PEM")


class EnrolmentPending(_Message):
    """The answer while a person has yet to approve; the same request again asks how it stands."""

    device: DeviceId
    fingerprint: str = Field(description="of the device's key; what the person compares")
    retry_seconds: float = Field(gt=0, le=3600)


class RenewalRequest(_Message):
    """Over mTLS, for the same key or a new one. The request must name the device itself."""

    certificate_request: str = Field(max_length=PEM_BYTES_MAX, description="PKCS#10, PEM")


class RenewalResponse(_Message):
    """A new certificate. One for a new key counts once the device has confirmed that it has it;
    until then the old key and its certificate stay good."""

    device: DeviceId
    certificate: str = Field(max_length=CERTIFICATE_CHAIN_BYTES_MAX, description="PEM")
    confirm: bool = Field(description="the key is new: confirm it with this certificate")


class ChallengeRequest(_Message):
    device: DeviceId


class Challenge(_Message):
    """To be signed once, within ``seconds``, by a device whose certificate has ended."""

    challenge: str = Field(min_length=1, max_length=CHALLENGE_LENGTH_MAX)
    seconds: int = Field(ge=1)


class ProvenRenewalRequest(_Message):
    """Without a client certificate: the signature by the registered key stands in for it."""

    device: DeviceId
    challenge: str = Field(min_length=1, max_length=CHALLENGE_LENGTH_MAX)
    certificate_request: str = Field(max_length=PEM_BYTES_MAX, description="PKCS#10, PEM")
    signature: str = Field(
        max_length=512, pattern=r"^[0-9a-f]+$", description="ECDSA over `renewal_proof`, DER, hex"
    )


def renewal_proof(*, fleet: str, device: str, challenge: str, certificate_request: str) -> bytes:
    """What a device signs to renew without a valid certificate; binds the new key as well."""
    request = hashlib.sha256(certificate_request.encode()).hexdigest()
    payload = f"{fleet}\0{device}\0{challenge}\0{request}".encode()
    return pre_authentication_encoding(RENEWAL_PROOF, payload)


def fingerprint(public_key: bytes) -> str:
    """Of a key (SubjectPublicKeyInfo, DER), in a form that two people can read to each other:
    sha256 in groups of four hex digits."""
    digest = hashlib.sha256(public_key).hexdigest()
    return " ".join(digest[place : place + 4] for place in range(0, len(digest), 4))


class Connection(_Message):
    """Where a person's or a pipeline's command line connects, and as whom (a TOML file)."""

    fleet: FleetId
    name: Label
    api_url: str = Field(max_length=512)
    mqtt_host: str = Field(max_length=253)
    mqtt_port: int = Field(ge=1, le=65535)
    # Paths, relative to the connection file.
    ca: str
    # A person has a token; a pipeline or dashboard a certificate with its key, for MQTT as well.
    token: str | None = None
    certificate: str | None = None
    key: str | None = None

    @model_validator(mode="after")
    def _says_as_whom(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        if self.certificate is None and self.token is None:
            raise ValueError("name a token, or a certificate with its key")
        return self
