"""What a device tells of live traffic besides counts and latencies. Sums only: they merge.

Source of the population stability index: Yurdakul, "Statistical properties of population stability
index", 2018.
"""

from typing import Literal, Self

from pydantic import Field

from mailboat_schemas.codec import WireModel

SHIFTS_MAX = 32  # tensors told of in one window; the furthest from the reference first


class CounterSum(WireModel):
    """Of one counter that the application posted: so many of so many were good."""

    good: int = Field(default=0, ge=0)
    total: int = Field(default=0, ge=0)

    def plus(self, other: Self) -> Self:
        return self.model_copy(
            update={"good": self.good + other.good, "total": self.total + other.total}
        )

    def since(self, before: Self | None) -> Self:
        if before is None or self.total < before.total or self.good < before.good:
            return self  # it began again from nothing
        return self.model_copy(
            update={"good": self.good - before.good, "total": self.total - before.total}
        )

    @property
    def rate(self) -> float | None:
        """None while nothing was posted."""
        return self.good / self.total if self.total else None


class ValueSum(WireModel):
    """Of values that the application posted under one name."""

    count: int = Field(default=0, ge=0)
    sum: float = Field(default=0.0, allow_inf_nan=False)

    def plus(self, other: Self) -> Self:
        return self.model_copy(
            update={"count": self.count + other.count, "sum": self.sum + other.sum}
        )

    def since(self, before: Self | None) -> Self:
        if before is None or self.count < before.count:
            return self  # it began again from nothing
        return self.model_copy(
            update={"count": self.count - before.count, "sum": self.sum - before.sum}
        )

    @property
    def mean(self) -> float | None:
        """None while nothing was posted."""
        return self.sum / self.count if self.count else None


class Shift(WireModel):
    """How far one tensor is from the release's reference statistics.

    ``shift`` is the population stability index beyond what chance explains; of a merged window the
    largest there was.
    """

    tensor: str = Field(min_length=1, max_length=128)
    side: Literal["input", "output"]
    requests: int = Field(ge=0, description="sampled")
    shift: float = Field(ge=0, allow_inf_nan=False)


class ShadowSum(WireModel):
    """Live requests that were mirrored to this release before it served."""

    mirrored: int = Field(default=0, ge=0)
    dropped: int = Field(default=0, ge=0, description="given up: for want of room, or in a pause")
    agreed: int = Field(default=0, ge=0)
    differed: int = Field(default=0, ge=0)
    failed: int = Field(default=0, ge=0, description="that only the candidate could not answer")
    pauses: int = Field(default=0, ge=0, description="for the sake of live answers")

    def plus(self, other: Self) -> Self:
        mine, others = self.model_dump(), other.model_dump()
        return self.model_copy(update={name: mine[name] + others[name] for name in mine})

    def since(self, before: Self) -> Self:
        mine, others = self.model_dump(), before.model_dump()
        return self.model_copy(update={name: mine[name] - others[name] for name in mine})

    @property
    def compared(self) -> int:
        return self.agreed + self.differed + self.failed
