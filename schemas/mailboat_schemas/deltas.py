"""A delta: a patch that makes a file of a release out of one the device already has, or of nothing.

Deltas are built after a release exists, from what the fleet really runs, so the document that CI
signed cannot name them. The director does, in `DesiredState.deltas`, and may lie: what the outcome
must be (digest and length of the target) stands in the release document, which is signed offline.
A wrong delta costs the device one patch, and then it fetches the file whole.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, model_validator

from mailboat_schemas.codec import WireModel
from mailboat_schemas.documents.release import ARTIFACT_BYTES_MAX
from mailboat_schemas.names import Digest

DELTAS_MAX = 128  # of one class; about 45 KB of a bundle that may have 512
DELTA_MEMORY_BYTES_MAX = 1 << 40  # a number a bundle may carry; a device has its own budget

Format = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,32}/[0-9]{1,4}$")]


class Delta(WireModel):
    """How to make one file, ``target``, from another one. Whoever does not know its format
    passes it over."""

    target: Digest = Field(description="sha256 of a file that a release document names")
    base: Digest | None = Field(
        default=None,
        description="sha256 of the file it starts from; none if it is the whole file, compressed",
    )
    base_length: int = Field(default=0, ge=0, le=ARTIFACT_BYTES_MAX, description="bytes")
    format: Format = Field(description="what the patch is, such as zstd-patch/1")
    patch: Digest = Field(description="sha256 of the patch, fetched like any artifact")
    patch_length: int = Field(ge=1, le=ARTIFACT_BYTES_MAX, description="bytes")
    memory_bytes: int = Field(
        ge=1,
        le=DELTA_MEMORY_BYTES_MAX,
        description="what applying it takes above a bare process; more is not given",
    )

    @model_validator(mode="after")
    def _a_base_has_a_length(self) -> Self:
        if (self.base is None) != (self.base_length == 0):
            raise ValueError("a base has a length, and a length a base")
        return self


class DeliveryOutcome(StrEnum):
    """How the files of a release came to a device: three things, never rounded to one another."""

    FULL = "full"
    DELTA = "delta"
    DELTA_FAILED_THEN_FULL = "delta_failed_then_full"


DELIVERY = "delivery"  # its place in the evidence of ``trial_started``


class Source(StrEnum):
    """Where the bytes of a release came from."""

    CONTROLLER = "controller"
    SITE_CACHE = "site_cache"
    OBJECT_STORE = "object_store"
    IMPORT = "import"  # a file that somebody brought, such as on a USB stick


class Delivery(WireModel):
    """What a device tells of it with ``trial_started``. Sizes in bytes of payload."""

    outcome: DeliveryOutcome
    fetched_bytes: int = Field(ge=0, description="files and patches, also those of no use")
    made_bytes: int = Field(ge=0, description="length of the files made from patches")
    reasons: tuple[str, ...] = Field(default=(), max_length=64, description="why deltas failed")
    source_bytes: dict[Source, int] = Field(
        default_factory=dict, max_length=len(Source), description="of the payload, by its source"
    )


def delivery_of(evidence: Mapping[str, Any]) -> Delivery | None:
    """What an event's evidence tells; None if it tells nothing, or nothing that can be read."""
    try:
        return Delivery.model_validate(evidence.get(DELIVERY))
    except ValueError:
        return None
