"""What `eligibility` is asked about and what it answers: facts, candidate, checks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from mailboat_schemas.desired import Offer
from mailboat_schemas.device_orders import Hold, Pin
from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.overlays import NO_CONFIG, ConfigChoice
from mailboat_schemas.policy_rules import NO_RULES, Rules
from mailboat_schemas.trust import Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What a device knows of itself, and what people ordered for it alone. Sizes in bytes.

    ``pins`` names at most one release of a model, and none that is not approved any more: see
    `pins_that_stand`.
    ``switched_at`` has the models something serves, each with its last commit in seconds since 1970
    UTC, or 0.
    """

    device: str
    hardware_class: str
    enrolment_number: int  # 0 = not enrolled
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    runtime_version: str
    providers: frozenset[str]
    memory_budget_bytes: int
    disk_free_bytes: int
    held_files: frozenset[str] = frozenset()  # digests of files, ids of content keys
    failed: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    security_versions: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    trust_fresh: bool = True
    clock_trusted: bool = True
    holds: tuple[Hold, ...] = ()
    pins: tuple[Pin, ...] = ()
    config: ConfigChoice = NO_CONFIG
    policy_version: str | None = None
    rules: Rules = NO_RULES
    switched_at: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def pin_of(self, model: str, now: datetime) -> Pin | None:
        seconds = now.timestamp()
        return next((p for p in self.pins if p.model == model and seconds < p.expires), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A release a device might run, with everything it is judged by."""

    model: str
    version: str
    digest: str
    standing: Standing
    document: ReleaseDocument | None
    offer: Offer | None  # None: current, for everybody the plan ever lets in
    retry_epoch: int = 0

    @property
    def is_emergency(self) -> bool:
        """Whether an approver signed its plan as one."""
        plan = self.standing.plan
        return plan is not None and plan.is_emergency


@dataclass(frozen=True, slots=True)
class Check:
    """One question. ``passed`` is None where an earlier no leaves it open.

    ``code`` is stable and tells apart the ways in which one question is answered no; empty where
    there is only one.
    """

    name: str
    passed: bool | None
    because: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class Eligibility:
    checks: tuple[Check, ...]

    @property
    def eligible(self) -> bool:
        return all(check.passed is True for check in self.checks)

    @property
    def refusal(self) -> Check | None:
        """The first check that did not pass."""
        return next((check for check in self.checks if check.passed is not True), None)
