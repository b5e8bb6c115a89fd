"""What `eligibility` is asked about and what it answers: facts, candidate, checks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from mailboat_schemas.class_budgets import NO_BUDGETS, ClassBudgets
from mailboat_schemas.desired import Offer
from mailboat_schemas.device_orders import Hold, Pin
from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.overlays import NO_CONFIG, ConfigChoice
from mailboat_schemas.policy_rules import NO_RULES, PolicyRange, Rules
from mailboat_schemas.trust import Standing


def _pin_among(pins: Sequence[Pin], model: str, now: datetime) -> Pin | None:
    if not pins:
        return None  # of most devices, and asked several times at each look
    seconds = now.timestamp()
    return next((p for p in pins if p.model == model and seconds < p.expires), None)


def _hold_among(holds: Sequence[Hold], model: str, now: datetime) -> Hold | None:
    if not holds:
        return None
    seconds = now.timestamp()
    return next((h for h in holds if h.holds(model) and seconds < h.expires), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What a device knows of itself, and what people ordered for it alone. Sizes in bytes.

    ``pins`` names at most one release of a model, and none that is not approved any more: see
    `pins_that_stand`.
    ``site_holds`` and ``site_pins`` are by the site's own order, and lead to nothing but what runs
    or ran: see `site_orders`.
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
    site_holds: tuple[Hold, ...] = ()
    site_pins: tuple[Pin, ...] = ()
    config: ConfigChoice = NO_CONFIG
    policy_version: str | None = None
    policy_ranges: tuple[PolicyRange, ...] = ()
    rules: Rules = NO_RULES
    class_budgets: ClassBudgets = NO_BUDGETS
    switched_at: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def pin_of(self, model: str, now: datetime) -> Pin | None:
        """By the centre, or else by the site."""
        return _pin_among(self.pins, model, now) or _pin_among(self.site_pins, model, now)

    def hold_of(self, model: str, digest: str, now: datetime) -> Hold | None:
        """What keeps this release from being installed: by the centre, or else by the site, which
        does not hold a device back from what it rolls it back to. Where the centre has a pin of
        this device, the site's holds do not count: who sees the whole fleet decides, and nobody has
        to compare two clocks or counters to know who was later."""
        held = _hold_among(self.holds, model, now)
        if held is not None or _pin_among(self.pins, model, now) is not None:
            return held
        pin = _pin_among(self.site_pins, model, now)
        if pin is not None and pin.digest == digest:
            return None
        return _hold_among(self.site_holds, model, now)

    def centre_holds(self, model: str, now: datetime) -> bool:
        """This device, or by policy the devices of its kind: as it runs, so it stays, whatever its
        site says. What its site has rolled back before stays as well."""
        return bool(self.rules.hold) or _hold_among(self.holds, model, now) is not None


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
