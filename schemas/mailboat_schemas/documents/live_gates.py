"""Gates on live traffic: requests mirrored to a candidate, and figures of a release that soaks."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from mailboat_schemas.documents.document import Strict

COUNTERS_MAX = 32  # of one release; what an application says of a model, not a metrics system
CounterName = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_.-]*$", min_length=1, max_length=64)
]


class Comparison(StrEnum):
    """When two answers to one request are the same."""

    TOLERANCE = "tolerance"  # no element differs by more
    ARGMAX = "argmax"  # in each row the largest element is at the same place
    COSINE = "cosine"  # the angle between them


class WhenUnproven(StrEnum):
    """What a shadow that compared too little means for the release."""

    PASS = "pass"  # noqa: S105 - the soak is still to come
    FAIL = "fail"


class Shadow(Strict):
    """Mirror live requests to the candidate before it may serve; its answers go to nobody."""

    share: float = Field(default=0.1, gt=0, le=1, description="of the live requests")
    requests_min: int = Field(default=50, ge=1, le=10**6, description="compared, for a verdict")
    seconds_max: float = Field(default=3600, gt=0, le=14 * 86_400)
    comparison: Comparison = Comparison.TOLERANCE
    tolerance: float = Field(default=1e-3, ge=0, description="of an element; for tolerance")
    cosine_min: float = Field(default=0.99, ge=-1, le=1, description="for cosine")
    outputs: tuple[str, ...] = Field(default=(), max_length=64, description="that count; () all")
    agreement_min: float = Field(default=0.99, ge=0, le=1, description="share that agrees")
    latency_ratio_max: float | None = Field(
        default=None, gt=0, le=1000, description="p95 against the serving release's"
    )
    live_latency_ratio_max: float = Field(
        default=1.25, ge=1, le=1000, description="p95 of live answers; above it mirroring pauses"
    )
    when_unproven: WhenUnproven = WhenUnproven.PASS


class CounterGate(Strict):
    """Bounds on what the application says of the answers: `POST /v1/feedback`.

    A value that is exactly at its bound holds.
    """

    good_rate_min: float | None = Field(default=None, ge=0, le=1, description="good ÷ total")
    mean_min: float | None = Field(default=None, description="of posted values")
    mean_max: float | None = Field(default=None, description="of posted values")
    total_min: int = Field(default=20, ge=1, le=10**9, description="posted, before it is judged")
    required: bool = Field(default=False, description="the soak waits for total_min")

    @model_validator(mode="after")
    def _bounds_one_kind(self) -> Self:
        of_values = self.mean_min is not None or self.mean_max is not None
        if (self.good_rate_min is not None) == of_values:
            raise ValueError("a counter has a good_rate_min, or a mean_min or mean_max")
        least, most = self.mean_min, self.mean_max
        if least is not None and most is not None and least > most:
            raise ValueError("no mean is at least mean_min and at most mean_max")
        return self


class DriftGate(Strict):
    """How far inputs and outputs may be from the release's file of role ``reference``.

    A shift is a population stability index beyond what chance explains: below 0.1 the same, above
    0.25 another population, by convention.
    """

    inputs_max: float | None = Field(default=None, gt=0, le=1000)
    outputs_max: float | None = Field(default=0.25, gt=0, le=1000)
    requests_min: int = Field(default=200, ge=10, le=10**6, description="sampled, for a verdict")

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if self.inputs_max is None and self.outputs_max is None:
            raise ValueError("drift has an inputs_max or an outputs_max")
        return self
