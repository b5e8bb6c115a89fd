"""Gates of the trial that a release may declare beyond golden samples within a tolerance."""

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from mailboat_schemas.documents.document import Strict
from mailboat_schemas.documents.serving_policy import BATCH_SIZE_MAX

BATCHES_MAX = 8  # sizes that are measured
THROUGHPUT_PER_SECOND_MAX = 10**9  # that a bound may ask for
MEASURES_MAX = 32  # that a check of the release's own may be bound by
MeasureName = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_.-]*$", min_length=1, max_length=64)
]


class GoldenMetric(StrEnum):
    """How well an output agrees with its golden values, as one number over all samples."""

    ACCURACY = "accuracy"  # share of elements that are equal, text too
    TOP1 = "top1"  # share of rows (last axis) with their largest element at the same place
    COSINE = "cosine"  # of the sample where it is lowest
    RELATIVE_ERROR = "relative-error"  # |output - golden| / |golden|, of the worst sample


class MetricGate(Strict):
    """Judges one output by a metric, in place of the tolerance. At the bound it passes."""

    metric: GoldenMetric
    at_least: float | None = Field(default=None, ge=-1, le=1, description="all but relative-error")
    at_most: float | None = Field(default=None, ge=0, description="relative-error")

    @model_validator(mode="after")
    def _bound_that_fits(self) -> Self:
        error = self.metric is GoldenMetric.RELATIVE_ERROR
        if (self.at_most is None) == error or (self.at_least is None) != error:
            raise ValueError("relative-error has an at_most, every other metric an at_least")
        return self


class BatchGate(Strict):
    """A batch size of which the trial measures latency and throughput."""

    size: int = Field(ge=1, le=BATCH_SIZE_MAX)
    latency_p95_ms_max: float | None = Field(default=None, gt=0, le=600_000)
    throughput_per_second_min: float | None = Field(
        default=None,
        gt=0,
        le=THROUGHPUT_PER_SECOND_MAX,
        description="inferences (rows of a batch) answered in a second, one batch after the other",
    )

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Documents from before a field existed keep their canonical bytes, and so their digest.
        absent = {"throughput_per_second_min"}
        return {k: v for k, v in write(self).items() if k not in absent or v is not None}


class RelativeGates(Strict):
    """Bounds against the release that serves now, measured in the same trial on the same device.

    A device on which none serves has nothing to compare with; there they pass.
    """

    latency_p95_ratio_max: float | None = Field(default=None, gt=0, le=1000)
    throughput_ratio_min: float | None = Field(
        default=None, gt=0, le=1000, description="of single requests"
    )
    peak_memory_ratio_max: float | None = Field(default=None, gt=0, le=1000)
    agreement_min: float | None = Field(
        default=None, ge=0, le=1, description="share of golden inputs answered alike"
    )

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if not self.model_dump(exclude_none=True):
            raise ValueError("relative gates bound latency, throughput, memory or agreement")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # As in `BatchGate`.
        absent = {"throughput_ratio_min"}
        return {k: v for k, v in write(self).items() if k not in absent or v is not None}


class Bounds(Strict):
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise ValueError("a measure has an at_least or an at_most")
        return self


class CheckGate(Strict):
    """Of the release's own check, its file of role ``check``."""

    seconds_max: float = Field(default=30, gt=0, le=3600)
    measures: dict[MeasureName, Bounds] = Field(default_factory=dict, max_length=MEASURES_MAX)
