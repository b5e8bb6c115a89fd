"""A device: power, link, clocks, and what it hears. What it does with a model is `model_work`.

As in the agent, the record and the journal outlive a power cut and nothing else does.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from mailboat_agent.update.decide import REFUSING_CHECKS
from mailboat_agent.update.events import implied_events, milliseconds, refusal_event
from mailboat_agent.update.moves import told_to_stop
from mailboat_agent.update.state import DeviceState, ModelState
from mailboat_agent.update.steps import Refusal
from mailboat_agent.update.time_floor import BUILT_AT, stands_before, stands_far_ahead
from mailboat_controller.simulate import intake
from mailboat_controller.simulate.disk import Disk
from mailboat_controller.simulate.drilling import Drilling
from mailboat_controller.simulate.model_work import ModelWork
from mailboat_controller.simulate.own_facts import facts_of
from mailboat_controller.simulate.post import Post
from mailboat_controller.simulate.releases import MODEL, NO_SITE, Fault
from mailboat_controller.simulate.rules_and_config import RulesAndConfig
from mailboat_controller.simulate.settled import same
from mailboat_controller.simulate.surroundings import Surroundings
from mailboat_controller.simulate.told import AUTHORITY, Manifest, Roles
from mailboat_schemas.eligibility import DeviceFacts
from mailboat_schemas.events import Event, EventKind

NOTHING_KNOWN = Roles(version=0, signer=AUTHORITY, director="", issued=0)


class PowerCut(Exception):
    """In the middle of something. What was durable before is all there is."""


class SimulatedDevice:
    __slots__ = (
        "_facts", "_implied", "around", "clock_trusted", "connection", "device", "disk", "drilling",
        "enrolment_number", "hardware_class", "labels", "life", "manifest", "online", "post",
        "record", "roles", "rules", "site", "skew_seconds", "untaken", "up", "work",
    )  # fmt: skip

    def __init__(
        self,
        around: Surroundings,
        device: str,
        hardware_class: str,
        enrolment_number: int,
        labels: Mapping[str, str],
        record: DeviceState,
        site: str = NO_SITE,
    ) -> None:
        self.around = around
        self.site = site
        self.device = device
        self.hardware_class = hardware_class
        self.enrolment_number = enrolment_number
        self.labels = labels
        # Durable.
        self.record = record
        self.roles = NOTHING_KNOWN
        self.manifest: Manifest | None = None
        self.disk = Disk()
        self.post = Post(self, around.rng)
        self.rules = RulesAndConfig(self)
        self.drilling = Drilling(self)
        # Until the power fails.
        self.up = True
        self.life = 0  # what was begun in an earlier one is not waited for any more
        self.online = False
        self.connection = 0
        self.untaken: Manifest | None = None
        self.work = ModelWork(self)
        self.skew_seconds = 0.0  # of its clock
        self.clock_trusted = True
        self._facts: DeviceFacts | None = None
        self._implied: tuple[object, ...] = ()  # state and journal that the newest events were of

    def __repr__(self) -> str:
        return f"<{self.device} {self.state.phase} of {self.work.serving[:8] or 'nothing'}>"

    # --- what it knows ----------------------------------------------------------------------------

    @property
    def state(self) -> ModelState:
        return self.record.models.get(MODEL, _ABSENT)

    @property
    def clock_seconds(self) -> float:
        """What its clock says: seconds since 1970 UTC."""
        return max(0.0, self.around.agenda.now + self.skew_seconds)

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock_seconds, UTC)

    @property
    def muted(self) -> bool:
        """The release that serves has taken it off the air."""
        if not self.work.serving:
            return False
        release = self.around.releases[self.work.serving]
        return release.broken > 0 and release.fault_on(self.device) is Fault.SILENT

    def facts(self) -> DeviceFacts:
        self._facts = facts_of(self, self._facts)
        return self._facts

    @property
    def trust_fresh(self) -> bool:
        return self.manifest is not None and self.clock_seconds < self.manifest.expires

    def look_at_the_clock(self) -> None:
        now, floor = self.now, max(self.record.time_floor, BUILT_AT)
        if stands_before(now, floor):
            self.clock_trusted = False
            return
        expired = self.manifest is not None and not self.trust_fresh
        self.clock_trusted = not (expired and stands_far_ahead(now, floor))

    # --- record, then tell ------------------------------------------------------------------------

    def save(self, state: DeviceState) -> None:
        """One write that happens or does not."""
        self.moment()
        self.record = replace(state, generation=self.record.generation + 1)
        self.moment()

    def make(self, state: ModelState) -> None:
        """As `Ledger.record`: the record first, then what follows from it."""
        self.save(replace(self.record, models={**self.record.models, MODEL: state}))
        self.tell_what_the_state_implies()

    def tell_what_the_state_implies(self) -> None:
        of = (self.state, self.post.rows.epoch)
        if same(of, self._implied):
            return  # this journal has them: their ids follow from the record
        for event in implied_events(MODEL, self.state, self.now):
            self.post.tell(event)
        self._implied = of

    def tell_trouble(self, kind: EventKind, event_id: str) -> None:
        event = Event(event_id=event_id, sequence=1, kind=kind, observed_at=milliseconds(self.now))
        self.post.tell(event)

    def tell_refusals(self, refusals: Iterable[Refusal]) -> None:
        for refusal in refusals:
            if refusal.check.name in REFUSING_CHECKS:
                self.post.tell(refusal_event(MODEL, refusal, self.state.serving, self.now))

    def moment(self) -> None:
        """One in which the power may fail."""
        weather = self.around.weather
        if weather.cut_in_step and self.around.rng.random() < weather.cut_in_step:
            raise PowerCut

    # --- steps ------------------------------------------------------------------------------------

    def later(self, seconds: float, act: Callable[..., None], *told: Any) -> None:
        """Unless the power fails before."""
        self.around.agenda.after(seconds, self.run, self.life, act, told)

    def run(
        self, life: int, act: Callable[..., None], told: tuple[Any, ...]
    ) -> "SimulatedDevice | None":
        """A step of this device; None, when nobody waits for it any more."""
        if life != self.life or not self.up:
            return None
        try:
            act(*told)
        except PowerCut:
            self.power_cut()
        return self

    def look(self) -> None:
        self.look_at_the_clock()
        if self.clock_trusted and self.untaken is not None:
            self.take(self.untaken)
            self.look_at_the_clock()
        self.work.look()
        self.drilling.look()

    def look_again_and_again(self) -> None:
        timing = self.around.timing
        self.later(
            timing.look_seconds * (0.75 + self.around.rng.random() / 2), self.look_again_and_again
        )
        self.look()

    def begin(self) -> None:
        """Power is on: what `service.py` does at the start of the agent."""
        self.record = replace(self.record, session=self.record.session + 1)
        self.tell_what_the_state_implies()
        self.drilling.tell_again()
        self.look_at_the_clock()
        self.rules.look()
        self.work.begin_serving()
        if self.around.timing.look_seconds:
            self.later(
                self.around.timing.look_seconds * self.around.rng.random(),
                self.look_again_and_again,
            )
        self.look()

    def check_files(self) -> None:
        """All of them hashed again, as the agent does now and then."""
        if self.disk.set_rotten_aside():
            self.tell_trouble(EventKind.STORAGE_DAMAGED, f"damaged:{self.record.session}:check")
            self.look()

    # --- power ------------------------------------------------------------------------------------

    def power_cut(self) -> "SimulatedDevice | None":
        if not self.up:
            return None
        self.up = False
        self.life += 1
        self.drop_link()
        self.work.stop()
        self.rules.forget()
        self.drilling.stop()
        self.post.forget()
        self.untaken = None
        self.around.agenda.after(self.around.timing.boot_seconds, self.boot)
        return self

    def told_to_stop(self) -> "SimulatedDevice | None":
        """In order: an attempt that was running is given back."""
        if not self.up:
            return None
        try:
            if self.work.is_open:
                models = {**self.record.models, MODEL: told_to_stop(self.state)}
                self.save(replace(self.record, models=models))
        except PowerCut:
            pass
        return self.power_cut()

    def boot_for_the_first_time(self) -> "SimulatedDevice | None":
        return self.run(self.life, self.begin, ())

    def boot(self) -> "SimulatedDevice | None":
        if self.up:
            return None
        self.up = True
        weather, rng = self.around.weather, self.around.rng
        if weather.journal_lost and rng.random() < weather.journal_lost:
            self.post.rows.lose()
        return self.run(self.life, self.begin, ())

    # --- link -------------------------------------------------------------------------------------

    def connect(self) -> "SimulatedDevice | None":
        if not self.up or self.online:
            return None
        return self.run(self.life, self._connect, ())

    def _connect(self) -> None:
        self.online = True
        self.connection += 1
        self.around.network.connected(self)
        self.post.connected()
        self.work.on_link()

    def drop_link(self) -> "SimulatedDevice | None":
        if not self.online:
            return None
        self.online = False
        self.connection += 1  # what is on its way here does not arrive
        self.around.network.disconnected(self)
        self.work.download.on_link_down()
        self.post.forget()
        return self

    def hear_ack(self, connection: int, payload: bytes) -> "SimulatedDevice | None":
        if connection != self.connection or self.muted:
            return None
        return self.run(self.life, self.post.hear, (payload,))

    def hear_manifest(self, connection: int, manifest: Manifest) -> "SimulatedDevice | None":
        if connection != self.connection or self.muted:
            return None
        return self.run(self.life, self._take_and_look, (manifest,))

    def _take_and_look(self, manifest: Manifest) -> None:
        self.post.heard()
        if manifest is self.manifest:
            return  # retained, and heard before: nothing to look at
        self.look_at_the_clock()
        if self.take(manifest):
            self.work.on_new_manifest()
            self.look_at_the_clock()  # the floor may be higher now
        self.work.look()
        self.drilling.look()

    # --- trust ------------------------------------------------------------------------------------

    def take(self, manifest: Manifest) -> bool:
        return intake.take(self, manifest)

    def refuses(self, manifest: Manifest) -> str:
        """What is wrong with it, or nothing."""
        return intake.refusal(self.hardware_class, self.roles, manifest)


_ABSENT = ModelState()
