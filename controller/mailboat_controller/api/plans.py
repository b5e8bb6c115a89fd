"""What a rollout would do, before anybody approves it. Nothing is written."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Reader
from mailboat_controller.explaining.explain import Evidence
from mailboat_controller.explaining.plan import forecast
from mailboat_schemas.documents.rollout import Rollout

REASONS_MAX = 100  # of one class; the rest is counted

router = APIRouter(prefix="/v1/plans", tags=["rollouts"])


class PlanRequest(BaseModel):
    rollout: Rollout
    devices_per_class: Annotated[int, Field(ge=1, le=10**6)] | None = Field(
        default=None, description="as the approver will say it; none: the smallest class as it is"
    )


class PlannedWave(BaseModel):
    """``duration_seconds`` null: too few of its devices have a habit to tell by. ``waiting`` of
    those able wait for a maintenance window or their cadence, as of now."""

    number: int
    hardware_class: str
    devices: int
    able: int
    needed: int
    total: int
    excludes: float
    catches_ten_percent: float
    opens_at: datetime | None
    duration_seconds: float | None
    waiting: int
    without_habit: int
    examples: list[str]


class Excluded(BaseModel):
    """``unknown``: nothing says no, but not all is known."""

    check: str
    because: str
    devices: int
    examples: list[str]
    unknown: bool


class PlannedClass(BaseModel):
    hardware_class: str
    devices: int
    cannot: list[Excluded]
    more_reasons: int


class PlanForecast(BaseModel):
    rollout: str
    model: str
    version: str
    digest: str
    at: datetime
    ends_at: datetime | None
    warnings: list[str]
    classes: list[PlannedClass]
    waves: list[PlannedWave]


@router.post("")
def plan_rollout(request: PlanRequest, _reader: Reader, context: Context) -> PlanForecast:
    """Who would get a release, who cannot and why, what each wave can exclude, how long it takes.

    Asks the rule that devices ask, of the fleet as it is known now.
    """
    now = context.now()
    with context.store.read() as tx:
        found = forecast(Evidence(tx, now), request.rollout, request.devices_per_class)
    return PlanForecast(
        rollout=found.rollout,
        model=found.model,
        version=found.version,
        digest=found.digest,
        at=now,
        ends_at=found.ends_at,
        warnings=list(found.warnings),
        classes=[
            PlannedClass(
                hardware_class=name,
                devices=count,
                cannot=[
                    Excluded(
                        check=each.check,
                        because=each.because,
                        devices=each.devices,
                        examples=list(each.examples),
                        unknown=each.unknown,
                    )
                    for each in found.cannot[name][:REASONS_MAX]
                ],
                more_reasons=max(0, len(found.cannot[name]) - REASONS_MAX),
            )
            for name, count in found.devices.items()
        ],
        waves=[
            PlannedWave(
                number=wave.number,
                hardware_class=wave.hardware_class,
                devices=wave.devices,
                able=wave.able,
                needed=wave.needed,
                total=wave.total,
                excludes=wave.excludes,
                catches_ten_percent=wave.catches_ten_percent,
                opens_at=wave.opens_at,
                duration_seconds=None if wave.duration is None else wave.duration.total_seconds(),
                waiting=wave.waiting,
                without_habit=wave.without_habit,
                examples=list(wave.examples),
            )
            for wave in found.waves
        ],
    )
