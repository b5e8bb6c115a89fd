"""What a device tells of its state, and the small messages of the outbox protocol."""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from mailboat_schemas.codec import WireModel
from mailboat_schemas.documents.fleet_document import Level
from mailboat_schemas.documents.live_gates import COUNTERS_MAX, CounterName
from mailboat_schemas.documents.serving_policy import Workload
from mailboat_schemas.drills import ReportedDrill
from mailboat_schemas.host_figures import HostFigures
from mailboat_schemas.live_figures import SHIFTS_MAX, CounterSum, ShadowSum, Shift, ValueSum
from mailboat_schemas.names import (
    ClassName,
    DeviceId,
    Digest,
    FleetId,
    ModelName,
    SiteName,
    Version,
)
from mailboat_schemas.site_orders import ReportedSiteOrder

# Free space is told in steps, rounded down: every line of a log would change the report.
DISK_STEP_BYTES = 16 << 20
# The time of the last good inference is told with whatever else is, and alone once in this time.
ANSWERED_STEP_SECONDS = 3600
ANSWERED_AT_MAX = 253_402_300_799  # 9999-12-31T23:59:59Z, the last that a date can say
DEGRADED_MODES_MAX = 32  # there are fewer; a newer agent may know more
DegradedMode = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
NonNegative = Annotated[int, Field(ge=0)]

Epoch = str
_EPOCH = r"^[0-9a-f]{16}$"


class ModelPhase(StrEnum):
    """Where a model stands on a device, in the words of the published state machine."""

    ABSENT = "absent"
    STAGING = "staging"  # downloading and verifying beside what serves
    TRIAL = "trial"
    SOAK = "soak"
    COMMITTED = "committed"


class ReportedModel(WireModel):
    model: ModelName
    phase: ModelPhase
    serving_version: Version | None = None
    serving_digest: Digest | None = None
    target_version: Version | None = None
    target_digest: Digest | None = None
    because: str = Field(default="", max_length=500, description="why it is not further")
    security_version: int = Field(default=0, ge=0, description="the highest it has committed")
    switched_at: int = Field(
        default=0, ge=0, description="its last commit, seconds since 1970 UTC; 0: none is known"
    )
    answered_at: int | None = Field(
        default=None,
        ge=0,
        le=ANSWERED_AT_MAX,
        description="its last good inference by any release, seconds since 1970 UTC, true to "
        "within the hour; 0: none since the agent began; null: the device does not tell",
    )
    stale_since: int = Field(
        default=0,
        ge=0,
        description="since when it is further behind than policy allows, seconds since 1970 UTC; "
        "0: it is not",
    )
    stopped_version: Version | None = Field(
        default=None, description="what would serve, and is stopped for being so far behind"
    )
    stopped_digest: Digest | None = None
    previous_version: Version | None = None  # where it can go back to without a new trial
    previous_digest: Digest | None = None
    spare_version: Version | None = Field(
        default=None,
        description="what it ran before that: where it goes if the previous one cannot serve",
    )
    spare_digest: Digest | None = None
    whole: tuple[Digest, ...] = Field(
        default=(), max_length=16, description="releases whose files are all on the device"
    )
    staged_bytes: int = Field(default=0, ge=0)
    total_bytes: int = Field(default=0, ge=0)
    drill: ReportedDrill | None = Field(default=None, description="the newest rollback drill")


class ReportedFacts(WireModel):
    """What eligibility is decided on; the controller's `plan` and `explain` use the same."""

    agent_version: str = Field(default="", max_length=64)
    arch: str = Field(default="", max_length=32)
    runtime_version: str = Field(default="", max_length=64)
    providers: tuple[str, ...] = Field(default=(), max_length=16)
    memory_budget_bytes: int = Field(default=0, ge=0)
    disk_free_bytes: int = Field(default=0, ge=0)
    enrolment_number: int = Field(default=0, ge=0)
    labels: dict[str, str] = Field(default_factory=dict, max_length=32)


class ReportedLayer(WireModel):
    """One document of a device's config."""

    level: Level
    name: str = Field(max_length=63)
    version: str = Field(max_length=64)
    digest: Digest


class ReportedConfig(WireModel):
    """The config in force: what it was merged from, and what waits to be."""

    digest: Digest = Field(description="sha256 of the merged values as canonical JSON")
    layers: tuple[ReportedLayer, ...] = Field(default=(), max_length=3)
    waiting: tuple[ReportedLayer, ...] = Field(
        default=(), max_length=3, description="listed for it, and not in force yet"
    )
    because: str = Field(default="", max_length=500, description="why it waits, or is refused")


class ReportedState(WireModel):
    """What runs now. Signed by the device; retained, so a new controller can be rebuilt from it."""

    fleet: FleetId
    device: DeviceId
    hardware_class: ClassName
    site: SiteName
    session: int = Field(ge=0)
    observed_at: int = Field(description="milliseconds since 1970 UTC by the device's clock")
    manifest_counter: int = Field(ge=0, description="the wish this state answers")
    trust_versions: dict[str, int] = Field(default_factory=dict, max_length=256)
    models: tuple[ReportedModel, ...] = Field(default=(), max_length=64)
    failed: dict[Digest, int] = Field(default_factory=dict, max_length=256)
    facts: ReportedFacts = ReportedFacts()
    notes: tuple[str, ...] = Field(default=(), max_length=16, description="such as trust_stale")
    config: ReportedConfig | None = Field(
        default=None, description="none: nobody signed a config for this device"
    )
    site_order: ReportedSiteOrder | None = Field(
        default=None, description="none: nothing stands that its site has ordered"
    )


class Span(WireModel):
    """First and last sequence an outbox holds; last < first when it is empty."""

    first: int = Field(ge=1)
    last: int = Field(ge=0)


class Hello(WireModel):
    """What the outbox holds. Signed by the device: nobody else may have its rows passed over."""

    wire_bytes_max: ClassVar[int] = 4096

    device: DeviceId
    epoch: Epoch = Field(pattern=_EPOCH)
    events: Span
    telemetry: Span


class Ack(WireModel):
    """Committed on the controller's disk up to here; ``rewind`` asks to send again from there.

    Signed by the director: a device forgets its events on this word.
    """

    wire_bytes_max: ClassVar[int] = 4096

    device: DeviceId
    epoch: Epoch = Field(pattern=_EPOCH)
    events_acked: int = Field(ge=0)
    telemetry_acked: int = Field(ge=0)
    rewind: bool = False
    manifest_counter: int = Field(
        default=0,
        ge=0,
        description="newest desired state of the device's class: a broker that withholds it shows",
    )


class Presence(WireModel):
    """Birth, or last will, signed by the device. A will of an older session than the newest birth
    changes nothing."""

    wire_bytes_max: ClassVar[int] = 4096

    device: DeviceId
    session: int = Field(ge=0)
    online: bool


class LatencySketch(WireModel):
    """A DDSketch by value: bucket counts from ``offset`` on. Mergeable, fixed relative accuracy.

    Source: Masson, Rim, Lee, "DDSketch", VLDB 2019.
    """

    relative_accuracy: float = Field(gt=0, lt=1)
    offset: int
    bins: tuple[int, ...] = Field(max_length=4096)
    zero_count: int = Field(default=0, ge=0)
    count: int = Field(ge=0)
    sum_ms: float = 0.0
    min_ms: float | None = None
    max_ms: float | None = None


class TelemetryWindow(WireModel):
    """Of one release and one workload class. Every figure merges, so windows can be made one.

    Of the machine alone, while nothing is served: without model, version and digest.
    """

    sequence: int = Field(ge=1, lt=1 << 63)
    model: ModelName | Literal[""] = ""
    version: Version | Literal[""] = ""
    digest: Digest | Literal[""] = ""
    started_at: int = Field(description="milliseconds since 1970 UTC by the device's clock")
    seconds: float = Field(ge=0)
    requests_ok: int = Field(ge=0)
    requests_error: int = Field(ge=0)
    requests_refused: int = Field(
        default=0, ge=0, description="not run: the queue was full, or no worker was ready in time"
    )
    workload: Workload | None = Field(default=None, description="of the requests; null: of any")
    merged: int = Field(
        default=1, ge=1, description="windows of the device that this one stands for"
    )
    worker_restarts: int = Field(default=0, ge=0)
    peak_memory_bytes: int = Field(default=0, ge=0)
    last_ok_at: int | None = None
    latency: LatencySketch | None = None
    counters: dict[CounterName, CounterSum] = Field(
        default_factory=dict, max_length=COUNTERS_MAX, description="posted by the application"
    )
    values: dict[CounterName, ValueSum] = Field(
        default_factory=dict, max_length=COUNTERS_MAX, description="posted by the application"
    )
    shifts: tuple[Shift, ...] = Field(default=(), max_length=SHIFTS_MAX)
    shadow: ShadowSum | None = None
    degraded: dict[DegradedMode, NonNegative] = Field(
        default_factory=dict,
        max_length=DEGRADED_MODES_MAX,
        description="answers that were not the release's own at its best, by how they came about",
    )
    host: HostFigures | None = Field(
        default=None, description="of the whole device; in one of the windows of a drain alone"
    )

    @model_validator(mode="after")
    def _names_a_release_or_none(self) -> Self:
        if not bool(self.model) == bool(self.version) == bool(self.digest):
            raise ValueError("model, version and digest go together")
        return self


class TelemetryBatch(WireModel):
    """Consecutive windows of one outbox, sealed in an `Envelope` by the device's key."""

    wire_bytes_max: ClassVar[int] = 256 * 1024
    unpacked_bytes_max: ClassVar[int] = 2 * 1024 * 1024

    device: DeviceId
    epoch: Epoch = Field(pattern=_EPOCH)
    first: int = Field(ge=1)
    windows: tuple[TelemetryWindow, ...] = Field(min_length=1, max_length=500)
