"""What this device is: asked once at the start, and what of it changes asked again each time."""

import platform
from dataclasses import dataclass, field
from datetime import datetime
from importlib import metadata

from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.config import AgentConfig
from mailboat_agent.serving.process import RuntimeFacts
from mailboat_agent.update.keeping import PREDECESSORS_MAX
from mailboat_agent.update.state import Installed, ModelState
from mailboat_schemas.class_budgets import NO_BUDGETS, ClassBudgets, tighter
from mailboat_schemas.device_orders import DeviceDesired
from mailboat_schemas.documents.failure_mode import FailureMode
from mailboat_schemas.eligibility import DeviceFacts
from mailboat_schemas.overlays import NO_CONFIG, ConfigChoice
from mailboat_schemas.policy_rules import PolicyRange
from mailboat_schemas.reports import ReportedFacts
from mailboat_schemas.site_orders import ReportedSiteOrder, holds_of

ORDER_NOTES_MAX = 4  # others have to be said too
UNKNOWN_RUNTIME = RuntimeFacts("", ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The circumstances of one look: ``now`` for people and plans, ``monotonic`` for spans."""

    now: datetime
    monotonic: float
    clock_trusted: bool
    trust_fresh: bool


@dataclass(slots=True, kw_only=True)
class Device:
    """The fixed part. Sizes in bytes."""

    device: str
    fleet: str
    hardware_class: str
    site: str
    labels: dict[str, str]
    enrolment_number: int
    memory_budget_bytes: int
    disk_budget_bytes: int | None
    arch: str
    agent_version: str
    failure_mode: FailureMode | None = None  # stricter than the class's, if it must be
    order: DeviceDesired | None = None  # what people asked of this device alone
    keep_predecessors: int = PREDECESSORS_MAX  # that ran here before what serves
    site_order: ReportedSiteOrder | None = None  # what stands that its site has ordered
    config: ConfigChoice = NO_CONFIG  # what is in force of that which people signed
    class_budgets: ClassBudgets = NO_BUDGETS  # of its manifest; its own may be tighter
    policy_version: str | None = None
    policy_ranges: tuple[PolicyRange, ...] = ()
    # By model, what would serve and is stopped by policy for being too far behind.
    stopped: dict[str, Installed] = field(default_factory=dict)
    runtime: RuntimeFacts = UNKNOWN_RUNTIME  # asked beside what begins to serve, until answered

    @classmethod
    def of(cls, config: AgentConfig, *, enrolment_number: int) -> "Device":
        return cls(
            device=config.device,
            fleet=config.fleet,
            hardware_class=config.hardware_class,
            site=config.site,
            labels=dict(config.labels),
            enrolment_number=enrolment_number,
            memory_budget_bytes=config.memory_budget,
            disk_budget_bytes=config.disk_budget,
            arch=platform.machine(),
            agent_version=agent_version(),
            failure_mode=config.failure_mode,
            keep_predecessors=config.keep_predecessors,
        )

    @property
    def unconfined(self) -> list[str]:
        """A note for each layer around a model's process that this host does not give."""
        layers = self.runtime.confinement
        return [f"worker_unconfined:{layer.name}" for layer in layers if not layer.holds]

    def order_notes(self, now: datetime) -> list[str]:
        """What people's orders for this device say, as far as they stand."""
        return [*self._centre_notes(now), *self._site_notes(now)][:ORDER_NOTES_MAX]

    @property
    def reported_site_order(self) -> ReportedSiteOrder | None:
        """None while nothing of it stands."""
        said = self.site_order
        return said if said is not None and (said.holds or said.rollbacks) else None

    def _centre_notes(self, now: datetime) -> list[str]:
        if self.order is None:
            return []
        seconds = now.timestamp()
        holds = [each.model for each in self.order.holds if seconds < each.expires]
        pins = [each for each in self.order.pins if seconds < each.expires]
        return [
            *("held" if model is None else f"held:{model}" for model in holds),
            *(f"pinned:{each.model}@{each.version}" for each in pins),
        ]

    def _site_notes(self, now: datetime) -> list[str]:
        if self.site_order is None:
            return []
        seconds, said = now.timestamp(), self.site_order
        holds = [each.model for each in said.holds if seconds < each.expires]
        back = [each for each in said.rollbacks if seconds < each.expires]
        return [
            *("site_held" if model is None else f"site_held:{model}" for model in holds),
            *(f"site_rollback:{each.model}@{each.version}" for each in back),
        ]

    def is_stopped(self, model: str, release: Installed | None) -> bool:
        return release is not None and self.stopped.get(model) == release

    @property
    def disk_bound_bytes(self) -> int | None:
        """Its own budget or that of its class, whichever is tighter."""
        return tighter(self.disk_budget_bytes, self.class_budgets.disk_bytes)

    def disk_free_bytes(self, store: ReleaseStore) -> int:
        """What the disk has left for releases, or the budget if that is less.

        What is staged counts as free, because it is a part of what it was asked for: otherwise a
        download would take away the room that it needs. So does what gives way to it.
        """
        gives_way = store.gives_way.size_bytes()
        free = store.free_bytes() + store.staged_bytes_of_all() + gives_way
        budget, stored = self.disk_bound_bytes, store.stored_bytes() - gives_way
        return free if budget is None else min(free, max(0, budget - stored))

    def for_decision(
        self, state: ModelState, model: str, store: ReleaseStore, look: Look
    ) -> DeviceFacts:
        serving = None if self.is_stopped(model, state.serving) else state.serving
        return DeviceFacts(
            device=self.device,
            hardware_class=self.hardware_class,
            enrolment_number=self.enrolment_number,
            labels=self.labels,
            runtime_version=self.runtime.version,
            providers=frozenset(self.runtime.providers),
            memory_budget_bytes=self.memory_budget_bytes,
            disk_free_bytes=self.disk_free_bytes(store),
            held_files=store.digests() | store.content_keys.ids(),
            failed=state.failed,
            security_versions={model: state.security_version},
            switched_at={} if serving is None else {model: state.switched_at},
            trust_fresh=look.trust_fresh,
            clock_trusted=look.clock_trusted,
            holds=() if self.order is None else self.order.holds,
            pins=() if self.order is None else self.order.pins,
            site_holds=holds_of(self.site_order),
            config=self.config,
            policy_version=self.policy_version,
            policy_ranges=self.policy_ranges,
        )

    def reported(self, store: ReleaseStore) -> ReportedFacts:
        return ReportedFacts(
            agent_version=self.agent_version,
            arch=self.arch,
            runtime_version=self.runtime.version,
            providers=self.runtime.providers[:16],
            memory_budget_bytes=self.memory_budget_bytes,
            disk_free_bytes=self.disk_free_bytes(store),
            enrolment_number=self.enrolment_number,
            labels=self.labels,
        )


def agent_version() -> str:
    try:
        return metadata.version("mailboat")
    except metadata.PackageNotFoundError:
        return "0"
