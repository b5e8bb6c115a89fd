"""How a release wants to be served: in batches or alone, at once or when first asked for."""

from enum import StrEnum

from pydantic import Field

from mailboat_schemas.documents.document import Strict

BATCH_SIZE_MAX = 1024


class Workload(StrEnum):
    """Who waits for whom where both want the same device."""

    REAL_TIME = "real-time"
    BATCH = "batch"


class Load(StrEnum):
    EAGER = "eager"
    LAZY = "lazy"  # with the first request


class ServingPolicy(Strict):
    batch_size_max: int = Field(
        default=1, ge=1, le=BATCH_SIZE_MAX, description="requests that run as one; 1 for never"
    )
    batch_delay_ms_max: float = Field(
        default=0, ge=0, le=1000, description="that a request may wait for others to come"
    )
    workload: Workload = Field(
        default=Workload.REAL_TIME, description="of requests that do not say"
    )
    load: Load = Load.EAGER
