"""What a hardware class allows each release on its devices, as its manifest tells them. Pure.

A device goes by the tighter of this and its own settings: a class can take from what a device
gives and never add to it. It binds what is to be installed. What serves already goes on as it is,
whatever the class says later: the director's key must not be able to take a device off the air.
"""

from pydantic import Field

from mailboat_schemas.codec import WireModel


class ClassBudgets(WireModel):
    """Bytes, milliseconds, inferences a second. None is no bound of the class."""

    memory_bytes: int | None = Field(default=None, ge=0, description="one release at its peak")
    disk_bytes: int | None = Field(default=None, ge=0, description="all releases that are held")
    model_bytes_max: int | None = Field(default=None, ge=0, description="the largest single file")
    latency_p95_ms_max: float | None = Field(
        default=None, gt=0, description="of single requests, in the trial"
    )
    throughput_per_second_min: float | None = Field(
        default=None, gt=0, description="of single requests, in the trial"
    )


NO_BUDGETS = ClassBudgets()


def no_budgets() -> ClassBudgets:
    return NO_BUDGETS


def tighter(own: int | None, of_class: int | None) -> int | None:
    """The smaller of two bounds in bytes; None is none."""
    return min((each for each in (own, of_class) if each is not None), default=None)
