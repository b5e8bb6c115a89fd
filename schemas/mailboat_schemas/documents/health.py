"""The gates a release must pass on the device itself: in its trial, and on live traffic."""

from pydantic import Field

from mailboat_schemas.documents.document import Strict


class Soak(Strict):
    """How long, and how well, a release must serve live traffic before it is committed."""

    seconds: float = Field(default=300, ge=0, le=14 * 86_400)
    requests_min: int = Field(default=0, ge=0, le=10**9, description="waits for at least so many")
    error_rate_max: float = Field(default=0.01, ge=0, le=1)
    latency_p95_ms_max: float | None = Field(default=None, gt=0)
    # A breach is called only on evidence: this many requests, or the whole soak.
    breach_requests_min: int = Field(default=20, ge=1, le=10**6)


class Health(Strict):
    """The gates a release must pass on the device itself before it is committed."""

    tolerance: float = Field(default=1e-3, ge=0, description="largest |output - golden| allowed")
    tolerances: dict[str, float] = Field(default_factory=dict, description="per output tensor")
    cold_start_ms_max: float = Field(default=30_000, gt=0, le=600_000)
    latency_p95_ms_max: float | None = Field(default=None, gt=0, le=600_000)
    deadline_seconds: float = Field(default=60, gt=0, le=3600, description="of the whole trial")
    soak: Soak = Soak()
