"""What CI submits and the answer it gets.

A submission is atomic: release role, approval role and documents are taken together or not at all.
The payload proves itself by its signatures; the broker's ACL only keeps strangers from the topic.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from mailboat_schemas.codec import WireModel
from mailboat_schemas.names import Digest, FleetId

RoleName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,80}$")]
ROLES_PER_SUBMISSION_MAX = 8


class Submission(WireModel):
    """New versions of TUF roles, as signed bytes, and the release documents they list."""

    wire_bytes_max: ClassVar[int] = 512 * 1024
    unpacked_bytes_max: ClassVar[int] = 4 * 1024 * 1024

    fleet: FleetId
    roles: dict[RoleName, bytes] = Field(min_length=1, max_length=ROLES_PER_SUBMISSION_MAX)
    documents: dict[Digest, bytes] = Field(default_factory=dict, max_length=16)


class SubmissionReply(BaseModel):
    """JSON, because the reader is often a shell with ``mosquitto_rr``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    status: Literal["accepted", "rejected", "retry"]
    submission: str = Field(description="sha256 of the submission's bytes")
    reasons: tuple[str, ...] = ()
    code: str = ""
    releases: tuple[str, ...] = Field(default=(), description="model@version now known")
    rollouts: tuple[str, ...] = Field(default=(), description="rollouts this created")
    missing_artifacts: tuple[Digest, ...] = ()
