"""Simulation: what is asked of a simulation, as a person writes it."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from mailboat_controller.simulate.reachability import OFFLINE_MAX
from mailboat_controller.simulate.releases import Fault
from mailboat_schemas.documents.document import Document, Strict
from mailboat_schemas.documents.rollout import RolloutSpec
from mailboat_schemas.names import ClassName, Label

DEVICES_MAX = 1_000_000
DAYS_MAX = 400
Share = Annotated[float, Field(ge=0, le=1)]
PerDay = Annotated[float, Field(ge=0, le=100, description="for each device, on average")]


class ReleaseMadeUp(Strict):
    """The release that is rolled out, and the devices that it does not suit."""

    size_bytes: PositiveInt = 20 << 20
    soak_seconds: float = Field(default=3600, gt=0, le=14 * 86_400)
    trial_seconds: float = Field(default=60, gt=0, le=3600)
    broken: Share = 0.0
    manners: dict[Fault, Share] = Field(
        default_factory=dict, max_length=4, description="how the bad devices are shared out"
    )


class Links(Strict):
    drop: Share = Field(default=0.01, description="of messages")
    duplicate: Share = Field(default=0.01, description="of messages")
    late_seconds: float = Field(default=0.5, ge=0, le=3600, description="on average")
    corrupt: Share = Field(default=0.001, description="of downloads")
    bytes_per_second: float = Field(default=250_000, gt=0)


class SimulationSpec(Strict):
    devices: int = Field(default=1000, ge=1, le=DEVICES_MAX)
    hardware_classes: tuple[ClassName, ...] = Field(default=("simulated",), min_length=1)
    seed: int = Field(default=1, ge=0)
    days: float = Field(default=14, gt=0, le=DAYS_MAX, description="at most; less if it is settled")
    offline: float = Field(default=0.2, ge=0, le=OFFLINE_MAX, description="share at any moment")
    release: ReleaseMadeUp = ReleaseMadeUp()
    links: Links = Links()
    power_cuts_per_day: PerDay = 0.02
    clock_steps_per_day: PerDay = 0.01
    decide_every_seconds: float = Field(
        default=600, ge=1, le=86_400, description="news that comes meanwhile waits"
    )
    rollout: RolloutSpec | None = Field(default=None, description="none: see docs/simulate.md")


class SimulationMetadata(Strict):
    name: Label = "simulation"
    description: str = Field(default="", max_length=1000)


class Simulation(Document):
    kind: Literal["Simulation"]
    metadata: SimulationMetadata
    spec: SimulationSpec
