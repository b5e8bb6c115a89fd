"""What a device tells of the machine it runs on. Sums and extremes only: they merge.

A figure that the machine does not tell is absent, never 0: no sensor is not a cold device.
"""

from typing import Self

from pydantic import Field

from mailboat_schemas.codec import WireModel


class Gauge(WireModel):
    """What was read at some moments of a window."""

    count: int = Field(ge=1)
    sum: float
    min: float
    max: float

    @classmethod
    def of(cls, value: float) -> Self:
        return cls(count=1, sum=value, min=value, max=value)

    def plus(self, other: Self) -> Self:
        return self.model_copy(
            update={
                "count": self.count + other.count,
                "sum": self.sum + other.sum,
                "min": min(self.min, other.min),
                "max": max(self.max, other.max),
            }
        )

    @property
    def mean(self) -> float:
        return self.sum / self.count


class HostFigures(WireModel):
    """The whole device, whatever runs on it."""

    cpu_percent: Gauge | None = Field(default=None, description="of all cores together, 0 to 100")
    load_1m: Gauge | None = Field(default=None, description="runnable processes, mean of a minute")
    memory_available_bytes: Gauge | None = None
    memory_total_bytes: int | None = Field(default=None, ge=0)
    disk_free_bytes: Gauge | None = Field(default=None, description="of the data directory")
    agent_resident_bytes: Gauge | None = Field(default=None, description="the agent, no workers")
    celsius: Gauge | None = Field(default=None, description="of the hottest zone")
    battery_percent: Gauge | None = Field(default=None, description="only while it is drained")
    energy_joules: float | None = Field(
        default=None, ge=0, description="that the device or its processors used, where known"
    )
    energy_seconds: float | None = Field(
        default=None, ge=0, description="of the window, that energy_joules speaks for"
    )

    def plus(self, other: Self) -> Self:
        """Of both spans. What only one of them knows is what is known."""
        both: dict[str, object] = {}
        for name in type(self).model_fields:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is None or theirs is None:
                both[name] = theirs if mine is None else mine
            elif isinstance(mine, Gauge):
                both[name] = mine.plus(theirs)
            elif name == "memory_total_bytes":
                both[name] = theirs  # the newer: memory may have been added
            else:
                both[name] = mine + theirs
        return self.model_copy(update=both)
