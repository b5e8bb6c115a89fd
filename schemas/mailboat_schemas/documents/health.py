"""The gates a release must pass on the device itself: in its trial, and on live traffic."""

from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from mailboat_schemas.documents.document import Strict
from mailboat_schemas.documents.live_gates import (
    COUNTERS_MAX,
    CounterGate,
    CounterName,
    DriftGate,
    Shadow,
)
from mailboat_schemas.documents.trial_gates import (
    BATCHES_MAX,
    BatchGate,
    CheckGate,
    MetricGate,
    RelativeGates,
)

NonNegative = Annotated[float, Field(ge=0)]


class Soak(Strict):
    """How long, and how well, a release must serve live traffic before it is committed."""

    seconds: float = Field(default=300, ge=0, le=14 * 86_400)
    requests_min: int = Field(default=0, ge=0, le=10**9, description="waits for at least so many")
    error_rate_max: float = Field(default=0.01, ge=0, le=1)
    latency_p95_ms_max: float | None = Field(default=None, gt=0)
    # A breach is called only on evidence: this many requests, or the whole soak.
    breach_requests_min: int = Field(default=20, ge=1, le=10**6)
    counters: dict[CounterName, CounterGate] = Field(
        default_factory=dict, max_length=COUNTERS_MAX, description="that the application posts"
    )
    drift: DriftGate | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Documents from before a field existed keep their canonical bytes, and so their digest.
        return {k: v for k, v in write(self).items() if k not in {"counters", "drift"} or v}


class Health(Strict):
    """The gates a release must pass on the device itself before it is committed."""

    tolerance: float = Field(default=1e-3, ge=0, description="largest |output - golden| allowed")
    tolerances: dict[str, NonNegative] = Field(
        default_factory=dict, description="per output tensor"
    )
    cold_start_ms_max: float = Field(default=30_000, gt=0, le=600_000)
    latency_p95_ms_max: float | None = Field(default=None, gt=0, le=600_000)
    deadline_seconds: float = Field(default=60, gt=0, le=3600, description="of the whole trial")
    metrics: dict[str, MetricGate] = Field(
        default_factory=dict, max_length=64, description="per output tensor, for its tolerance"
    )
    batches: tuple[BatchGate, ...] = Field(default=(), max_length=BATCHES_MAX)
    relative: RelativeGates | None = None
    check: CheckGate | None = None
    soak: Soak = Soak()
    shadow: Shadow | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # As in `Soak`.
        optional = {"shadow", "metrics", "batches", "relative", "check"}
        return {k: v for k, v in write(self).items() if k not in optional or v}
