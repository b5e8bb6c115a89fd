"""HardwareClass: the contract of one kind of device. One retained manifest serves them all."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from mailboat_schemas.documents.document import Document, SizeBytes, Strict, VersionRange
from mailboat_schemas.documents.failure_mode import FailureMode
from mailboat_schemas.names import ClassName


class WhenDisconnected(StrEnum):
    """What a silent device of this class means to the people who watch it."""

    NORMAL = "normal"
    EXPECTED = "expected"
    ERROR = "error"


class ClassRuntime(Strict):
    name: Literal["onnxruntime"] = "onnxruntime"
    version: VersionRange = ">=1.18"
    providers: tuple[str, ...] = Field(
        default=("CPUExecutionProvider",), min_length=1, max_length=8
    )


class Staleness(Strict):
    """How far behind a device may be before it is reported as such."""

    minor_versions_behind_max: int | None = Field(default=None, ge=0, le=1000)
    security_within_hours: int | None = Field(default=None, ge=1, le=24 * 365)


class HardwareClassMetadata(Strict):
    name: ClassName
    description: str = Field(default="", max_length=1000)


class HardwareClassSpec(Strict):
    arch: str = Field(max_length=32, examples=["x86_64", "aarch64"])
    runtime: ClassRuntime = ClassRuntime()
    memory_budget: SizeBytes = Field(description="bytes one loaded release may use at its peak")
    disk_budget: SizeBytes = Field(description="bytes of releases a device may hold")
    model_bytes_max: SizeBytes = Field(default=2 << 30, description="largest single artifact")
    latency_p95_ms_max: float | None = Field(default=None, gt=0, le=600_000)
    metered: bool = False
    when_disconnected: WhenDisconnected = WhenDisconnected.NORMAL
    staleness: Staleness = Staleness()
    failure_mode: FailureMode = FailureMode.FAIL_SAFE


class HardwareClass(Document):
    kind: Literal["HardwareClass"]
    metadata: HardwareClassMetadata
    spec: HardwareClassSpec
