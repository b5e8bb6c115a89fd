"""When a wave has passed, as a person writes it: one of three rules, named in the document.

``every`` and ``count`` suit a few devices that somebody chose: one failure halts. ``statistical``
suits a wave of dozens and more, where a few failures are to be expected of a healthy release; its
figures mean what docs/gate.md says.
"""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from mailboat_schemas.documents.document import Strict

LOOKS_MAX = 16
HOURS_MAX = 24 * 366
# An error of a half or more is no promise, and a share of a half or more no health.
PERCENT_MAX = 50

# What every kind of gate may say.
OF_EVERY_KIND = frozenset({"kind", "ok_min", "wait_max_hours", "clean_restarts", "rollback_drills"})

Percent = Annotated[float, Field(gt=0, lt=PERCENT_MAX)]
LargeShare = Annotated[float, Field(gt=0, lt=100)]
Hours = Annotated[float, Field(ge=0, le=HOURS_MAX)]
PositiveHours = Annotated[float, Field(gt=0, le=HOURS_MAX)]


class GateKind(StrEnum):
    EVERY = "every"  # every eligible device of the wave has a good verdict; one failure halts
    COUNT = "count"  # so many good verdicts in each class; one failure halts
    STATISTICAL = "statistical"  # enough evidence that few fail; silence counts against


class Gate(Strict):
    """When the next wave may start."""

    kind: GateKind | None = Field(
        default=None, description="left out: 'count' with ok_min, else 'every'"
    )
    # Good verdicts needed in each class; None asks every eligible device of the wave for one.
    ok_min: int | None = Field(default=None, ge=1, le=10**6, description="of kind count")
    p0: Percent | None = Field(
        default=None, description="percent that may fail of a healthy release; 1 if left out"
    )
    q: LargeShare | None = Field(
        default=None, description="percent that fail of the kind of release to halt early; 30"
    )
    p1: Percent | None = Field(
        default=None, description="percent; not promoted when as many or more fail; 10"
    )
    alpha: Percent | None = Field(
        default=None, description="percent; chance of halting a healthy release; 1"
    )
    beta: Percent | None = Field(
        default=None, description="percent; chance of promoting a release that breaks p1; 1"
    )
    silence: Percent | None = Field(
        default=None, description="percent silent beyond verdict_within that is usual; 7"
    )
    verdict_within_hours: PositiveHours | None = Field(
        default=None, description="after this an exposed device without a verdict is overdue; 24"
    )
    soak_hours: Hours | None = Field(
        default=None,
        description="from the wave's opening to the first look; 12, with "
        "control verdict_within_hours more",
    )
    look_every_hours: PositiveHours | None = Field(
        default=None, description="from one look to the next; 6"
    )
    looks: int | None = Field(default=None, ge=1, le=LOOKS_MAX, description="at most; 5")
    control: bool | None = Field(
        default=None,
        description="allow for the silence of ten times as many devices without the release",
    )
    latency_p95_ratio_max: Annotated[float, Field(gt=1, le=1000)] | None = Field(
        default=None,
        description="a device is slow when its p95 is above so many times that of the release "
        "before; p1 and beta hold for slow devices too",
    )
    wait_max_hours: PositiveHours | None = Field(
        default=None, description="then the rollout pauses and waits for a person; no limit"
    )

    clean_restarts: int | None = Field(
        default=None,
        ge=1,
        le=10**6,
        description="of every kind: devices in each class whose release came back after the agent "
        "was started anew",
    )
    rollback_drills: int | None = Field(
        default=None,
        ge=1,
        le=10**6,
        description="of every kind: devices in each class that passed a rollback drill while they "
        "answered requests",
    )

    @property
    def rule(self) -> GateKind:
        if self.kind is not None:
            return self.kind
        return GateKind.EVERY if self.ok_min is None else GateKind.COUNT

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if self.rule is GateKind.COUNT and self.ok_min is None:
            raise ValueError("a gate of kind 'count' says 'ok_min'")
        if self.rule is not GateKind.COUNT and self.ok_min is not None:
            raise ValueError(f"'ok_min' is of kind 'count', not of '{self.rule}'")
        if self.rule is not GateKind.STATISTICAL:
            stray = sorted(self.model_fields_set - OF_EVERY_KIND)
            if any(getattr(self, name) is not None for name in stray):
                raise ValueError(f"{stray[0]!r} is of kind 'statistical', not of '{self.rule}'")
        return self
