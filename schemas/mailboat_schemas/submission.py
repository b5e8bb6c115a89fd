"""What CI submits and the answer it gets.

A submission is atomic: release role, approval role and documents are taken together or not at all.
The payload proves itself by its signatures; the broker's ACL only keeps strangers from the topic.
"""

import base64
import binascii
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from mailboat_schemas.codec import WireModel
from mailboat_schemas.names import Digest, FleetId

RoleName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,80}$")]
ROLES_PER_SUBMISSION_MAX = 8
REASON_CHARS_MAX = 2000


class Submission(WireModel):
    """New versions of TUF roles, as signed bytes, and the release documents they list."""

    wire_bytes_max: ClassVar[int] = 512 * 1024
    unpacked_bytes_max: ClassVar[int] = 4 * 1024 * 1024

    fleet: FleetId
    roles: dict[RoleName, bytes] = Field(min_length=1, max_length=ROLES_PER_SUBMISSION_MAX)
    documents: dict[Digest, bytes] = Field(default_factory=dict, max_length=16)
    reason: str = Field(
        default="",
        max_length=REASON_CHARS_MAX,
        description="why, for the audit log; the sender's word, not signed",
    )


class SubmissionReply(BaseModel):
    """JSON, because the reader is often a shell with ``mosquitto_rr``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    status: Literal["accepted", "rejected", "retry"]
    submission: str = Field(description="sha256 of the submission's bytes")
    reasons: tuple[str, ...] = ()
    code: str = ""
    releases: tuple[str, ...] = Field(default=(), description="model@version now known")
    rollouts: tuple[str, ...] = Field(default=(), description="rollouts this created")
    documents: tuple[str, ...] = Field(
        default=(), description="config and policy that hold now, such as config class kiosk"
    )
    missing_artifacts: tuple[Digest, ...] = ()


def submission_bytes(message: bytes) -> bytes:
    """The encoded Submission in a message that may carry it in base64.

    ``mosquitto_rr`` sends nothing but text: its ``-f`` and ``-s`` send an empty message. Base64
    begins with a letter or a digit, an encoded payload never does. What is neither is returned as
    it came, for `codec.decode` to refuse.
    """
    if not message[:1].isalnum():
        return message
    try:
        return base64.b64decode(b"".join(message.split()), validate=True)
    except binascii.Error:
        return message
