"""What one device alone is asked, and the log lines it answers with.

``DeviceDesired`` travels in a DSSE envelope signed by the director, retained, so that a device that
is away finds it when it comes back. It asks, holds and pins; a pin names a release that its device
may run anyway, and never lets one in that the approved plan keeps out. The newest counter wins.
Answers need no acknowledgement: while the order stands, a device that reconnects says everything
again, and the controller keeps each line once, by its number.
"""

from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from mailboat_schemas.codec import WireModel
from mailboat_schemas.names import DeviceId, Digest, FleetId, ModelName, Version

FOLLOW_SECONDS_MAX = 900
DEVICE_DOCUMENTS_MAX = 2  # one of each role of `trust.FLEET_ROLES`
LOG_MESSAGE_CHARS_MAX = 2000
LOG_LINES_PER_EXCERPT_MAX = 500
LOG_BYTES_MAX = 4 * 1024 * 1024  # of lines that one request may bring, before compression
OVERRIDES_MAX = 16  # holds and pins of one device together: they travel in one message
DRILLS_MAX = 8  # of one device that have not ended
OVERRIDE_REASON_CHARS_MAX = 256
OVERRIDE_ACTOR_CHARS_MAX = 128
AT_MS_MAX = 253_402_300_799_000  # the last second of 9999, which programs can still write out
TRACE_PATTERN = r"^(?:|[0-9a-f]{32})$"

RequestId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]


class LogRequest(WireModel):
    """Lines of a device's own log, the newest of them if they are too many."""

    request: RequestId
    expires: int = Field(ge=0, description="seconds since 1970 UTC; afterwards nobody answers")
    since: int = Field(
        default=0, ge=0, lt=1 << 53, description="milliseconds since 1970 by the device's clock"
    )
    follow_seconds: int = Field(
        default=0, ge=0, le=FOLLOW_SECONDS_MAX, description="new lines are sent for so long"
    )
    bytes_max: int = Field(default=LOG_BYTES_MAX, ge=1024, le=LOG_BYTES_MAX)


class _Override(WireModel):
    """What a named person ordered for this device alone, why, and until when."""

    by: str = Field(max_length=OVERRIDE_ACTOR_CHARS_MAX)
    reason: str = Field(max_length=OVERRIDE_REASON_CHARS_MAX)
    expires: int = Field(ge=0, description="seconds since 1970 UTC; afterwards it counts no more")


class Hold(_Override):
    """Nothing new is installed. It does not keep a device on what has to be left."""

    model: ModelName | None = Field(default=None, description="none: every model")

    def holds(self, model: str) -> bool:
        return self.model in (None, model)


class Pin(_Override):
    """Of this model the device runs this release and no other, while it is approved."""

    model: ModelName
    version: Version
    digest: Digest


class Drill(_Override):
    """Prove that the release before could take over, once; see `mailboat_schemas.drills`."""

    order: RequestId
    model: ModelName | None = Field(default=None, description="none: every model")


class DeviceDesired(WireModel):
    """Signed by the director: all that stands for this device. What an earlier one asked, held or
    pinned and this one does not name is taken back."""

    wire_bytes_max: ClassVar[int] = 32 * 1024

    fleet: FleetId
    device: DeviceId
    counter: int = Field(ge=1, lt=1 << 63)
    issued: int = Field(ge=0, description="seconds since 1970 UTC, for people; decides nothing")
    logs: LogRequest | None = None
    holds: tuple[Hold, ...] = Field(default=(), max_length=OVERRIDES_MAX)
    pins: tuple[Pin, ...] = Field(default=(), max_length=OVERRIDES_MAX)
    drills: tuple[Drill, ...] = Field(default=(), max_length=DRILLS_MAX)
    documents: dict[Digest, bytes] = Field(
        default_factory=dict,
        max_length=DEVICE_DOCUMENTS_MAX,
        description="config signed for this device, by sha256; the config role says which holds",
    )


class LogLine(WireModel):
    """One line. ``number`` counts the lines of the device and never goes back while the log on its
    disk is whole."""

    number: int = Field(ge=1, lt=1 << 53)
    at: int = Field(
        ge=-AT_MS_MAX,
        le=AT_MS_MAX,
        description="milliseconds since 1970 UTC by the device's clock",
    )
    level: str = Field(max_length=16)
    logger: str = Field(max_length=128)
    message: str = Field(max_length=LOG_MESSAGE_CHARS_MAX)
    trace: str = Field(default="", pattern=TRACE_PATTERN, description="of the release it is about")


class LogExcerpt(WireModel):
    """A part of the answer, signed by the device."""

    wire_bytes_max: ClassVar[int] = 112 * 1024
    unpacked_bytes_max: ClassVar[int] = 1024 * 1024

    device: DeviceId
    request: RequestId
    lines: tuple[LogLine, ...] = Field(max_length=LOG_LINES_PER_EXCERPT_MAX)
    last: bool = Field(default=False, description="nothing comes after it")
    withheld: int = Field(
        default=0, ge=0, lt=1 << 53, description="lines that were too many to keep, so far"
    )
