"""What a device is told: the desired state of its class, and the bundle that carries it.

``DesiredState`` travels inside a DSSE envelope signed by the controller's director key. It may only
assign: which approved release the class runs, and how far an approved plan has come. Everything a
device needs to judge it by itself stands beside it in the same retained message, because MQTT gives
no order across topics.
"""

from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from mailboat_schemas.class_budgets import NO_BUDGETS, ClassBudgets
from mailboat_schemas.codec import WireModel
from mailboat_schemas.deltas import DELTAS_MAX, Delta
from mailboat_schemas.documents.failure_mode import FailureMode
from mailboat_schemas.documents.rollout import PILOTS_MAX, WAVES_MAX
from mailboat_schemas.names import ClassName, DeviceId, Digest, FleetId, ModelName, Version
from mailboat_schemas.policy_rules import RULES_MAX, PolicyRule

ASSIGNMENTS_MAX = 64  # models of one class
TRUST_FILES_MAX = 512
DOCUMENTS_MAX = 256
ABSENT_MAX = 256  # devices that a wave of canaries leaves out by name, some 8 KB
KEPT_MAX = 8  # superseded rollouts since the last completed one

Upto = Annotated[str, StringConstraints(pattern=r"^(?:|[0-9a-f]{16})$")]
TrustFileName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.%-]{0,127}\.json$")]


class ReleaseRef(WireModel):
    """A release by name and by the sha256 of its document; the digest is what counts."""

    version: Version
    digest: Digest


class OfferWave(WireModel):
    """How far one wave of the approved plan is open in this class, by its index in the plan."""

    upto: Upto
    roster: int = Field(ge=0, description="highest enrolment number that takes part")
    pilots: tuple[DeviceId, ...] = Field(default=(), max_length=PILOTS_MAX)
    absent: tuple[DeviceId, ...] = Field(
        default=(),
        max_length=ABSENT_MAX,
        description="not let in by this wave, whatever their position: not heard from lately",
    )


class Offer(WireModel):
    """A release on its way: waves 0..n of its plan are open, for the devices they let in."""

    release: ReleaseRef
    rollout: str = Field(max_length=63)
    paused: bool = False
    waves: tuple[OfferWave, ...] = Field(min_length=1, max_length=WAVES_MAX)


class Assignment(WireModel):
    """One model of the class: ``current`` is for all, ``offer`` for those its waves let in.

    ``kept`` names releases of rollouts that a newer one superseded: who runs one of them may keep
    it until the offer, or a new current release, reaches the device.
    """

    model: ModelName
    current: ReleaseRef | None = None
    offer: Offer | None = None
    kept: tuple[ReleaseRef, ...] = Field(default=(), max_length=KEPT_MAX)
    retry_epoch: int = Field(default=0, ge=0, description="raised to offer a failed release again")


class DesiredState(WireModel):
    """Signed by the director. The newest counter wins; there is no queue to get stuck."""

    fleet: FleetId
    hardware_class: ClassName
    counter: int = Field(ge=1, lt=1 << 63)
    issued: int = Field(ge=0, description="seconds since 1970 UTC, for people; decides nothing")
    assignments: tuple[Assignment, ...] = Field(max_length=ASSIGNMENTS_MAX)
    failure_mode: FailureMode = Field(
        default=FailureMode.FAIL_SAFE,
        description="of the class; a release or device may be stricter",
    )
    metered: bool = Field(
        default=False,
        description="every byte costs devices of this class; a device's own setting goes before",
    )
    budgets: ClassBudgets = Field(
        default=NO_BUDGETS,
        description="of the class, for what is installed; a device's own settings may be tighter",
    )
    rules: tuple[PolicyRule, ...] = Field(
        default=(),
        max_length=RULES_MAX,
        description="of the class: when a device may switch, how far behind it may be; the first "
        "that names the device counts",
    )
    deltas: tuple[Delta, ...] = Field(
        default=(),
        max_length=DELTAS_MAX,
        description="patches for files of the releases above, best first; a hint, never needed",
    )


class ManifestBundle(WireModel):
    """The one retained message of a class. Untrusted as a whole; every part proves itself."""

    wire_bytes_max: ClassVar[int] = 512 * 1024
    unpacked_bytes_max: ClassVar[int] = 4 * 1024 * 1024

    fleet: FleetId
    hardware_class: ClassName
    counter: int = Field(ge=1, lt=1 << 63)  # a hint for dashboards; the signed one is inside
    trust: dict[TrustFileName, bytes] = Field(max_length=TRUST_FILES_MAX)
    documents: dict[Digest, bytes] = Field(max_length=DOCUMENTS_MAX)
    desired: bytes = Field(description="an encoded Envelope of a DesiredState")


class FreshTimestamp(WireModel):
    """The timestamp role alone, so that signing it daily does not send the bundle again."""

    wire_bytes_max: ClassVar[int] = 16 * 1024

    fleet: FleetId
    hardware_class: ClassName
    timestamp: bytes = Field(description="timestamp.json")
