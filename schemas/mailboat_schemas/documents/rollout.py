"""Rollout: how a release spreads, as a person writes it, and the plan an approver signs."""

from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from mailboat_schemas.documents.document import Document, Strict
from mailboat_schemas.documents.rollout_gate import Gate
from mailboat_schemas.gate_terms import check_gates, seconds_of, terms_of
from mailboat_schemas.names import ClassName, DeviceId, Label, ModelName, Version

WAVES_MAX = 16
REASON_CHARS_MAX = 200
PILOTS_MAX = 64  # named devices of a wave; a larger group is a ring


class RolloutRelease(Strict):
    model: ModelName
    version: Version


class Wave(Strict):
    """One step: named pilots, a number of devices of each class, or a percentage of each class."""

    name: Label | None = None
    pilots: tuple[DeviceId, ...] = Field(default=(), max_length=PILOTS_MAX)
    devices: int | None = Field(default=None, ge=1, le=10**6, description="of each class")
    percent: float | None = Field(default=None, gt=0, le=100, description="of each class")
    ring: dict[Label, Annotated[str, StringConstraints(max_length=256)]] = Field(
        default_factory=dict, max_length=8, description="labels to match"
    )
    earliest: AwareDatetime | None = Field(default=None, description="devices refuse it before")
    gate: Gate = Gate()

    @model_validator(mode="after")
    def _says_who(self) -> Self:
        if self.devices is not None and self.percent is not None:
            raise ValueError("a wave says 'devices' or 'percent', not both")
        if not self.pilots and self.devices is None and self.percent is None:
            raise ValueError("a wave names 'pilots', 'devices' or 'percent'")
        return self

    @model_validator(mode="after")
    def _has_a_gate_that_can_be_met(self) -> Self:
        terms = terms_of(self.gate)
        limit = seconds_of(self.gate.wait_max_hours)
        if terms is not None and 0 < limit < terms.soak_seconds:
            raise ValueError("'wait_max_hours' is over before the soak, so nobody would ever look")
        return self


class RolloutMetadata(Strict):
    name: Label
    description: str = Field(default="", max_length=1000)


class RolloutSpec(Strict):
    release: RolloutRelease
    hardware_classes: tuple[ClassName, ...] = Field(
        default=(), max_length=256, description="empty: every class the release has a variant for"
    )
    waves: tuple[Wave, ...] = Field(min_length=1, max_length=WAVES_MAX)
    start: Literal["automatic", "manual"] = "automatic"
    expires: AwareDatetime | None = Field(
        default=None, description="a running rollout halts then, and no device installs it any more"
    )

    urgency: Literal["normal", "emergency"] = Field(
        default="normal",
        description="emergency: devices wait for no window, cadence, metered link or jitter",
    )
    reason: str | None = Field(
        default=None, min_length=1, max_length=REASON_CHARS_MAX, description="of an emergency"
    )

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if (self.urgency == "emergency") != (self.reason is not None):
            raise ValueError("'urgency: emergency' needs a 'reason', and nothing else has one")
        return self

    @model_validator(mode="after")
    def _only_grows(self) -> Self:
        widest: dict[tuple[object, ...], float] = {}
        for number, wave in enumerate(self.waves, start=1):
            for unit, size in (("devices", wave.devices), ("percent", wave.percent)):
                key = (unit, *sorted(wave.ring.items()))
                if size is not None and size < widest.get(key, 0):
                    raise ValueError(
                        f"wave {number} names {size:g} {unit}, an earlier one {widest[key]:g}: "
                        "who is in stays in"
                    )
                widest[key] = max(widest.get(key, 0), size or 0)
        return self

    @model_validator(mode="after")
    def _keeps_one_promise(self) -> Self:
        check_gates([terms_of(wave.gate) for wave in self.waves])
        return self


class Rollout(Document):
    kind: Literal["Rollout"]
    metadata: RolloutMetadata
    spec: RolloutSpec
