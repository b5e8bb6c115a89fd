"""State events: frozen facts a device tells about itself, in the order of its outbox.

``event_id`` is the same on every redelivery and after a lost journal, because it is derived from
the authoritative state (install number and kind). ``observed_at`` is the device's clock and decides
nothing. ``sequence`` gives the order.
"""

from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import Field, StringConstraints

from mailboat_schemas.codec import WireModel
from mailboat_schemas.names import DeviceId, Digest, ModelName, Version

EVENTS_PER_BATCH_MAX = 100
EVIDENCE_BYTES_MAX = 4096
# In the evidence of a verdict: from it until the predecessor served again, on the device's
# monotonic clock.
RECOVERY_SECONDS = "recovery_seconds"


class EventKind(StrEnum):
    TRIAL_STARTED = "trial_started"  # the device is exposed from here on
    TRIAL_FAILED = "trial_failed"  # refused by the device's own gates; it never served
    SOAK_STARTED = "soak_started"  # serves live traffic from here on
    COMMITTED = "committed"
    RESTARTED = "restarted"  # serves again after the agent was started anew; once for each install
    ROLLED_BACK = "rolled_back"  # failed on live traffic; the device went back
    RETURNED = "returned"  # went back without a verdict: halted, withdrawn or superseded
    RELEASE_REFUSED = "release_refused"  # before any exposure: trust, plan, fit
    MANIFEST_REFUSED = "manifest_refused"
    TRUST_STALE = "trust_stale"
    CLOCK_UNTRUSTED = "clock_untrusted"
    STORAGE_DAMAGED = "storage_damaged"  # a file or the journal was damaged and set aside
    STORAGE_REPAIRED = "storage_repaired"  # a damaged file is whole again; ``code`` says from where
    NOTHING_TO_SERVE = "nothing_to_serve"
    DEGRADED = "degraded"  # a declared degraded mode answers, or the device is under pressure
    RECOVERED = "recovered"  # that is over
    DRILL_PASSED = "drill_passed"  # the release before could take over now; nobody was exposed
    DRILL_FAILED = "drill_failed"  # it could not
    DRILL_SKIPPED = "drill_skipped"  # nothing was learnt; ``code`` says why
    SITE_ORDERED = "site_ordered"  # the site's own order was taken; ``code`` says what it does
    SECURITY = "security"  # somebody else tried something; ``code`` says what was refused


class Event(WireModel):
    """One fact. Which fields are set depends on the kind; see docs/protocol.md."""

    event_id: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9:._-]{1,128}$")]
    sequence: int = Field(ge=1, lt=1 << 63)
    kind: EventKind
    observed_at: int = Field(description="milliseconds since 1970 UTC by the device's clock")
    model: ModelName | None = None
    version: Version | None = None
    digest: Digest | None = Field(default=None, description="of the release document it is about")
    serving_version: Version | None = Field(default=None, description="what serves afterwards")
    code: str = Field(default="", max_length=64, description="stable error code or reason")
    because: str = Field(default="", max_length=1000, description="for people")
    retry_epoch: int = Field(default=0, ge=0)
    evidence: dict[str, Any] = Field(default_factory=dict)


class EventBatch(WireModel):
    """Consecutive events of one outbox, sealed in an `Envelope` by the device's key."""

    wire_bytes_max: ClassVar[int] = 112 * 1024
    unpacked_bytes_max: ClassVar[int] = 1024 * 1024

    device: DeviceId
    epoch: str = Field(
        pattern=r"^[0-9a-f]{16}$", description="of the outbox; new after a lost journal"
    )
    first: int = Field(ge=1)
    events: tuple[Event, ...] = Field(min_length=1, max_length=EVENTS_PER_BATCH_MAX)
