"""The plan an approver signs: which waves, how wide at most, how early. Integers only.

It travels in ``custom`` of the approval role's target, so a controller can walk it but not widen or
skip it: a device compares every offer with the plan and refuses more.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from mailboat_schemas.cohort import PPM
from mailboat_schemas.documents.rollout import PILOTS_MAX, REASON_CHARS_MAX, WAVES_MAX
from mailboat_schemas.errors import SignatureInvalid
from mailboat_schemas.gate_terms import SECONDS_MAX, StatisticalGate, check_gates
from mailboat_schemas.names import ClassName, DeviceId, Label

CUSTOM_KEY = "mailboat_plan"
DEVICES_MAX = 10**6  # that a wave may count, as in a Rollout document
INSTANT_MAX = 253_402_300_799  # the last second of the year 9999, which datetime can still hold
CLASSES_MAX = 256

Devices = Annotated[int, Field(ge=0, le=DEVICES_MAX)]
AtLeastOne = Annotated[int, Field(ge=1, le=DEVICES_MAX)]
Instant = Annotated[int, Field(ge=0, le=INSTANT_MAX, description="seconds since 1970 UTC")]
LabelValue = Annotated[str, StringConstraints(max_length=256)]


class _PlanPart(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class PlanWave(_PlanPart):
    """One approved wave. ``count`` and ``count_ppm`` say what the controller aims at in each class;
    ``cap_ppm`` is the most of the hash space a device accepts for it."""

    pilots: tuple[DeviceId, ...] = Field(default=(), max_length=PILOTS_MAX)
    count: Devices = 0  # of each class, or 0
    count_ppm: int = Field(default=0, ge=0, le=PPM)  # share of each class, or 0
    cap_ppm: int = Field(default=0, ge=0, le=PPM)
    ring: dict[Label, LabelValue] = Field(default_factory=dict, max_length=8)
    earliest: Instant = 0
    ok_min: Devices = 0  # verdicts to pass; 0 = every member
    gate: StatisticalGate | None = None  # judges the wave instead of ``ok_min``
    wait_max: int = Field(default=0, ge=0, le=SECONDS_MAX)  # then a person is asked; 0 = no limit
    # Beside the verdicts, in each class; None: it is not asked for.
    restarts_min: AtLeastOne | None = None  # devices whose release came back from a restart
    drills_min: AtLeastOne | None = None  # devices that passed a rollback drill under load

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if self.gate is not None:
            if self.ok_min:
                raise ValueError("a wave has one gate: 'ok_min' is of kind 'count'")
            if 0 < self.wait_max < self.gate.soak_seconds:
                raise ValueError("'wait_max' is over before the soak, so nobody would ever look")
        return self

    def matches(self, labels: Mapping[str, str]) -> bool:
        for name, value in self.ring.items():  # noqa: SIM110 - asked for every device of a class
            if labels.get(name) != value:
                return False
        return True


class Plan(_PlanPart):
    rollout: Label
    waves: tuple[PlanWave, ...] = Field(min_length=1, max_length=WAVES_MAX)
    # Empty: every class of the release.
    hardware_classes: tuple[ClassName, ...] = Field(default=(), max_length=CLASSES_MAX)
    manual_start: bool = False
    expires: Instant = 0  # 0 = never
    # Does not wait for windows, cadence, metered links and start jitter; None: it waits.
    urgency: Literal["emergency"] | None = None
    reason: str | None = Field(default=None, min_length=1, max_length=REASON_CHARS_MAX)

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if (self.urgency is None) != (self.reason is None):
            raise ValueError("an emergency has a reason, and nothing else has")
        return self

    @model_validator(mode="after")
    def _keeps_one_promise(self) -> Self:
        check_gates([wave.gate for wave in self.waves])
        return self

    def covers(self, hardware_class: str) -> bool:
        return not self.hardware_classes or hardware_class in self.hardware_classes

    @property
    def is_emergency(self) -> bool:
        return self.urgency is not None

    @property
    def emergency(self) -> str:
        """For people; empty if it is none."""
        return f"emergency: {self.reason}" if self.is_emergency else ""

    def to_custom(self) -> dict[str, Any]:
        return {CUSTOM_KEY: self.to_json()}

    def to_json(self) -> dict[str, Any]:
        """What is not given stays out."""
        return self.model_dump(mode="json", exclude_none=True)

    @classmethod
    def from_custom(cls, custom: object) -> Self:
        """Read the plan from a verified approval target.

        Raises:
            SignatureInvalid: the approver signed no readable plan; nothing may run on it.
        """
        content = custom.get(CUSTOM_KEY) if isinstance(custom, dict) else None
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise SignatureInvalid(
                "The approval carries no readable plan.",
                next_step="approve the release again with `mailboat release approve --rollout`.",
            ) from error
