"""How a release wants to be served: in batches or alone, at once or when first asked for."""

from enum import StrEnum
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from mailboat_schemas.documents.degraded_policy import DegradedPolicy
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
        default=1,
        ge=1,
        le=BATCH_SIZE_MAX,
        description="rows of different requests that run as one; 1 for never",
    )
    batch_delay_ms_max: float = Field(
        default=0, ge=0, le=1000, description="that a request may wait for others to come"
    )
    workload: Workload = Field(
        default=Workload.REAL_TIME, description="of requests that do not say"
    )
    load: Load = Load.EAGER
    degraded: DegradedPolicy | None = Field(
        default=None, description="what may answer when the release cannot, or is unsure"
    )

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Documents from before a field existed keep their canonical bytes, and so their digest.
        return {k: v for k, v in write(self).items() if k != "degraded" or v is not None}
