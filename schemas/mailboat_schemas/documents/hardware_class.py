"""HardwareClass: the contract of one kind of device. One retained manifest serves them all."""

from enum import StrEnum
from typing import Literal

from pydantic import Field, model_validator

from mailboat_schemas.class_budgets import ClassBudgets
from mailboat_schemas.documents.document import Document, SizeBytes, Strict, VersionRange
from mailboat_schemas.documents.failure_mode import FailureMode
from mailboat_schemas.documents.policy import WrittenRule, WrittenStaleness
from mailboat_schemas.documents.trial_gates import THROUGHPUT_PER_SECOND_MAX
from mailboat_schemas.names import ClassName
from mailboat_schemas.policy_rules import RULES_MAX, PolicyRule


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


class HardwareClassMetadata(Strict):
    name: ClassName
    description: str = Field(default="", max_length=1000)


class HardwareClassSpec(Strict):
    arch: str = Field(max_length=32, examples=["x86_64", "aarch64"])
    runtime: ClassRuntime = ClassRuntime()
    memory_budget: SizeBytes = Field(description="bytes one loaded release may use at its peak")
    disk_budget: SizeBytes = Field(description="bytes of releases a device may hold")
    model_bytes_max: SizeBytes = Field(default=2 << 30, description="largest single artifact")
    latency_p95_ms_max: float | None = Field(
        default=None, gt=0, le=600_000, description="of single requests"
    )
    throughput_per_second_min: float | None = Field(
        default=None,
        gt=0,
        le=THROUGHPUT_PER_SECOND_MAX,
        description="single requests a device has to answer in a second, one after the other",
    )
    metered: bool = False
    when_disconnected: WhenDisconnected = WhenDisconnected.NORMAL
    staleness: WrittenStaleness = WrittenStaleness()
    rules: tuple[WrittenRule, ...] = Field(
        default=(),
        max_length=RULES_MAX - 1,
        description="when devices may switch, and how far behind they may be; the first counts",
    )
    failure_mode: FailureMode = FailureMode.FAIL_SAFE

    @model_validator(mode="after")
    def _stops_nothing(self) -> "HardwareClassSpec":
        """Devices would not go by it: the controller signs what a class says."""
        bounds = (self.staleness, *(rule.staleness for rule in self.rules))
        if any(each is not None and each.enforce == "stop" for each in bounds):
            raise ValueError(
                "'enforce: stop' stands in a signed Policy alone; a class may say 'warn'"
            )
        return self

    @property
    def budgets(self) -> ClassBudgets:
        """As devices are told."""
        return ClassBudgets(
            memory_bytes=self.memory_budget,
            disk_bytes=self.disk_budget,
            model_bytes_max=self.model_bytes_max,
            latency_p95_ms_max=self.latency_p95_ms_max,
            throughput_per_second_min=self.throughput_per_second_min,
        )

    def policy_rules(self) -> tuple[PolicyRule, ...]:
        """As devices are told; ``staleness`` of the class stands behind what its rules say."""
        given = self.staleness != WrittenStaleness()
        return (*self.rules, *([WrittenRule(staleness=self.staleness)] if given else []))


class HardwareClass(Document):
    kind: Literal["HardwareClass"]
    metadata: HardwareClassMetadata
    spec: HardwareClassSpec
