"""How a device becomes known: an operator's kit, the device's request, the controller's answer.

The kit is handed to the device by a person, on a channel they trust; it carries the one-time token
and the trust anchors, so neither ever stands on a command line. The key is made on the device and
never leaves it.

Certificates name their holder: CN = device, pipeline or operator name; O = fleet;
OU = device | ci | operator | controller | server; serialNumber = enrolment number (devices);
SAN URI = ``urn:mailboat:<fleet>:<kind>:<name>``.
"""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from mailboat_schemas.names import ClassName, DeviceId, FleetId, Label, SiteName

PEM_BYTES_MAX = 16 * 1024
CERTIFICATE_CHAIN_BYTES_MAX = 64 * 1024


class Kind(StrEnum):
    """Who a certificate speaks for; its OU."""

    DEVICE = "device"
    CI = "ci"
    OPERATOR = "operator"
    DASHBOARD = "dashboard"
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


class Connection(_Message):
    """Where a person's or a pipeline's command line connects, and as whom (a TOML file)."""

    fleet: FleetId
    name: Label
    api_url: str = Field(max_length=512)
    mqtt_host: str = Field(max_length=253)
    mqtt_port: int = Field(ge=1, le=65535)
    # Paths, relative to the connection file.
    ca: str
    certificate: str
    key: str
