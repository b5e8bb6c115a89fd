"""Looks at every step of a simulated fleet for what must never be: DESIGN section 12.

It keeps its own account, beside the parties and mostly from what it saw them do: a device that
forgets something cannot hide it, and a rule that is wrong is not asked whether it is right.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from operator import is_
from typing import Any

from tests.simulation.budget_oracle import BudgetOracle
from tests.simulation.signed_oracle import NOT_RECORDED, SignedOracle
from tests.simulation.stale_oracle import StaleOracle
from tests.simulation.violation import Violation

from mailboat_agent.overlays.record import Recorded
from mailboat_agent.update.moves import STOPS_MAX
from mailboat_agent.update.steps import Refusal
from mailboat_controller.rollout.decide import Decision, Rollout
from mailboat_controller.rollout.members import Outcome
from mailboat_controller.rollout.state import OFFERED, Phase
from mailboat_controller.simulate.agenda import OVER
from mailboat_controller.simulate.device import SimulatedDevice
from mailboat_controller.simulate.exposure import allowed
from mailboat_controller.simulate.fleet import Fleet
from mailboat_controller.simulate.registry import Reached
from mailboat_controller.simulate.releases import MODEL, Fault
from mailboat_controller.simulate.rows import Rows
from mailboat_controller.simulate.told import AUTHORITY, Manifest, Roles
from mailboat_schemas.events import Event, EventKind
from mailboat_schemas.plan import PlanWave
from mailboat_schemas.reports import ModelPhase
from mailboat_schemas.topics import Channel

BARE_SECONDS_MAX = 8 * 3600.0  # with something to serve at hand, and nothing serving
AT_ONCE_MAX = 10_000  # steps within a millisecond; all devices that hear a manifest are some tens
STEPS_MAX = 300_000  # of a story; a rough one has thirty thousand
SKEW_SECONDS = 300  # a clock may be behind the floor by so much
_BAD = frozenset({EventKind.TRIAL_FAILED, EventKind.ROLLED_BACK})
_CANNOT_COMMIT = frozenset({Fault.TRIAL, Fault.SOAK, Fault.REBOOT})


@dataclass(slots=True)
class Account:
    """What was seen of one device."""

    looked_at: tuple[object, ...] = ()
    highest: tuple[int, ...] = (0, 0, 0, 0, 0, 0)
    serving: str = ""
    ran: str = ""  # the version that served when config and rules were looked at last
    emitted: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # by epoch
    meant: dict[str, tuple[object, ...]] = field(default_factory=dict)  # by event id
    failed: dict[str, int] = field(default_factory=dict)  # digest -> retry epoch
    failed_at: dict[str, float] = field(default_factory=dict)
    soak_began: dict[str, float] = field(default_factory=dict)
    committed: str = ""  # the last one
    hit: set[str] = field(default_factory=set)  # files that the story has damaged
    bare_since: float | None = None
    attempting: bool = False
    attempt: tuple[int, int] = (0, 0)  # install and tries left, of the newest one of a trial
    attempts: Counter[int] = field(default_factory=Counter)  # of a trial, by install
    stored: dict[str, int] = field(default_factory=dict)  # watermark by epoch
    config: Recorded = NOT_RECORDED
    refused: tuple[Refusal, ...] = ()
    switched: int = 0  # install that was committed last
    switched_at: int = 0  # by the device's clock, seconds since 1970 UTC; 0: never


class Oracle:
    """`watch` of the fleet; ``checks`` counts what was looked at."""

    def __init__(self) -> None:
        self.fleet: Fleet
        self.accounts: dict[str, Account] = defaultdict(Account)
        self.signed = SignedOracle()
        self.stale = StaleOracle()
        self.budgets = BudgetOracle()
        self.roles: dict[int, Roles] = {}
        self.published: dict[tuple[str, str, int], Manifest] = {}
        self.exposures: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.eligible: dict[str, dict[int, dict[str, int]]] = defaultdict(dict)
        self.completed: set[str] = set()  # digests
        self.happened: Counter[str] = Counter()
        self.checks = 0

    def attach(self, fleet: Fleet) -> None:
        self.fleet = fleet
        fleet.around.watch = self
        fleet.controller.on_decision = self.on_decision
        fleet.network.to_controller = self.to_controller
        publish = fleet.network.publish

        def published(manifest: Manifest) -> None:
            self.on_publish(manifest)
            publish(manifest)

        fleet.network.publish = published  # type: ignore[method-assign]
        fleet.around.redeemed = self.redeemed
        registry, controller = fleet.controller.registry, fleet.controller
        commit, reconcile = registry.commit, controller.reconcile

        def committed(reached: Reached, now: float) -> list[Event]:
            self.stored(reached.entry.device, reached.fresh, reached.entry.told)
            return commit(reached, now)

        def reconciled() -> None:
            before = fleet.network.published
            reconcile()
            self.on_reconcile(before)

        registry.commit = committed  # type: ignore[method-assign]
        controller.reconcile = reconciled  # type: ignore[method-assign]

    def run(self, until: float) -> None:
        """As `Fleet.run`, with a look at whoever took each step."""
        agenda, at, at_once = self.fleet.agenda, 0.0, 0
        step = agenda.step
        while True:
            touched = step(until)
            at_once = at_once + 1 if agenda.now - at < 1e-3 else 0
            at = agenda.now
            if at_once > AT_ONCE_MAX or agenda.steps > STEPS_MAX:
                raise Violation(9, f"time stands still: {touched!r}")
            if touched.__class__ is SimulatedDevice:
                self.look_at(touched)
            elif touched is OVER:
                return

    # --- devices ----------------------------------------------------------------------------------

    def look_at(self, device: SimulatedDevice) -> None:
        self.checks += 1
        account = self.accounts[device.device]
        work, rows, recorded = device.work, device.post.rows, device.rules.recorded
        serving = work.serving
        seen = (device.record, device.roles, device.manifest, serving, work.attempt_running)
        if self.stale.on and (happened := self.stale.look_at(device, account.meant)):
            self.happened[happened] += 1
        if account.bare_since is not None or not serving:
            self._always_something_to_serve(device, account)
        if rows.acked:
            self.acknowledged(device, rows)
        if recorded is not account.config or work.refused is not account.refused:
            self._by_what_is_signed(device, account)
        account.ran = "" if device.state.serving is None else device.state.serving.version
        held = account.looked_at
        if held and all(map(is_, seen, held)):
            return
        account.looked_at = seen
        self._nothing_goes_back(device, account)
        self._attempts_are_bounded(device, account)
        if serving:
            self._serves_what_it_may(device, account)
        elif account.serving:
            self._is_not_taken_off_the_air(device, account)
        account.serving = serving
        self._notes_the_switch(device, account)
        if device.up:
            self._what_is_recorded_is_told(device, account)

    def _by_what_is_signed(self, device: SimulatedDevice, account: Account) -> None:
        if device.rules.recorded is not account.config:
            self.happened["config taken"] += 1
            self.signed.took_config(device, account.config, account.ran)
            account.config = device.rules.recorded
        if device.work.refused is not account.refused:
            account.refused = device.work.refused
            for refusal in account.refused:
                self.happened[f"refused by {refusal.check.name}"] += 1
            self.signed.waits_rightly(device, account.switched_at)
            self.budgets.refuses_rightly(device, account.refused, account.meant)

    def _nothing_goes_back(self, device: SimulatedDevice, account: Account) -> None:
        record, manifest = device.record, device.manifest
        director = int(record.director_keyid.rpartition("-")[2] or 0)
        now = (
            record.generation,
            record.session,
            device.roles.version,
            record.time_floor,
            device.state.install,
            director * 1_000_000 + record.manifest_counter,
        )
        if any(a < b for a, b in zip(now, account.highest, strict=True)):
            raise Violation(7, f"{device.device} went back from {account.highest} to {now}")
        account.highest = now
        roles = device.roles
        if roles.version and self.roles.get(roles.version) is not roles:
            raise Violation(1, f"{device.device} took roles that nobody signed")
        if manifest is not None:
            named = (manifest.hardware_class, manifest.director, manifest.counter)
            if manifest.hardware_class != device.hardware_class:
                raise Violation(1, f"{device.device} goes by a manifest of another class")
            if named not in self.published:
                raise Violation(1, f"{device.device} goes by a manifest that nobody published")

    def _attempts_are_bounded(self, device: SimulatedDevice, account: Account) -> None:
        trying = device.work.attempt_running and device.state.phase is ModelPhase.TRIAL
        if trying:
            install, tries = device.state.install, device.state.tries
            if account.attempt != (install, tries):
                account.attempt = (install, tries)
                self.budgets.began_a_trial(device)
            if not account.attempting:
                account.attempts[install] += 1
            if account.attempts[install] > device.around.timing.tries + STOPS_MAX:
                raise Violation(4, f"{device.device} tries install {install} again and again")
        account.attempting = trying

    def _notes_the_switch(self, device: SimulatedDevice, account: Account) -> None:
        """When it committed last, by its clock in that step."""
        state = device.state
        if state.outcome == EventKind.COMMITTED and state.install != account.switched:
            account.switched_at = int(device.clock_seconds)
            account.switched = state.install

    def _serves_what_it_may(self, device: SimulatedDevice, account: Account) -> None:
        digest = device.work.serving
        if not self._approved(device.roles.version, digest):
            raise Violation(1, f"{device.device} serves {digest[:8]}, which it knows is withdrawn")
        release = device.around.releases[digest]
        if release.document.variant_for(device.hardware_class) is None:
            raise Violation(1, f"{device.device} serves a release for other classes")
        if digest != account.serving and not self._whole(device, digest):
            raise Violation(1, f"{device.device} serves bytes that are not {digest[:8]}")
        state = device.state
        if state.phase is ModelPhase.COMMITTED:
            if state.active is not None and state.active.digest != digest:
                raise Violation(1, f"{device.device} serves {digest[:8]}, which is not on record")
            account.committed = digest

    def _always_something_to_serve(self, device: SimulatedDevice, account: Account) -> None:
        state, held_back = device.state, device.up and self.stale.holds_back(device)
        if held_back and state.active is not None and state.phase is ModelPhase.COMMITTED:
            account.committed = state.active.digest  # also what it went back to and never served
        digest = account.committed
        if digest and not self._approved(device.roles.version, digest):
            account.committed = ""  # left for good: an approval that comes later is a new one
        ought = device.up and not device.work.serving and self._could_serve(device, account)
        if ought and held_back:
            ought = False
        now = device.around.agenda.now
        if not ought:
            account.bare_since = None
        elif account.bare_since is None:
            account.bare_since = now
        elif now - account.bare_since > BARE_SECONDS_MAX:
            raise Violation(4, f"{device.device} serves nothing, and could serve {digest[:8]}")

    def _is_not_taken_off_the_air(self, device: SimulatedDevice, account: Account) -> None:
        """What it served a step ago and has committed; by a budget, least of all."""
        is_it = device.up and account.serving == account.committed
        if is_it and self._could_serve(device, account) and not self.stale.holds_back(device):
            raise Violation(4, f"{device.device} stops {account.serving[:8]}, which may serve")

    def _could_serve(self, device: SimulatedDevice, account: Account) -> bool:
        """What it committed last is approved still, and nobody has damaged it."""
        digest = account.committed
        return (
            bool(digest)
            and self._approved(device.roles.version, digest)
            and account.hit.isdisjoint(device.around.releases[digest].files)
        )

    def _what_is_recorded_is_told(self, device: SimulatedDevice, account: Account) -> None:
        state = device.state
        if not state.install:
            return
        wanted = state.outcome or EventKind.TRIAL_STARTED.value
        event_id = f"{MODEL}:{state.install}:{wanted}"
        if wanted == EventKind.RETURNED:
            event_id += f":{state.outcome_digest[:16]}"
        if state.outcome_digest == "" and state.outcome:
            return
        if event_id not in account.meant and state.install > 1:
            raise Violation(3, f"{device.device} never told {event_id}")

    def _whole(self, device: SimulatedDevice, digest: str) -> bool:
        files = device.around.releases[digest].files
        return files <= device.disk.held and device.disk.rotten.isdisjoint(files)

    def _approved(self, version: int, digest: str) -> bool:
        known = self.roles[version].known.get(digest) if version in self.roles else None
        return known is not None and known.standing.approved_digest == digest

    # --- what devices do, called while they do it -------------------------------------------------

    def told(self, device: str, hardware_class: str, event: Event, epoch: str) -> None:
        del hardware_class
        account, told_by = self.accounts[device], self.fleet.devices[device]
        meaning = (event.kind, event.digest, event.retry_epoch)
        is_first = event.event_id not in account.meant
        if account.meant.setdefault(event.event_id, meaning) != meaning:
            raise Violation(3, f"{device} gives the id {event.event_id} to another event")
        again = event.event_id in account.emitted[epoch]
        if again:
            raise Violation(3, f"{device} tells {event.event_id} twice")
        account.emitted[epoch].append(event.event_id)
        self.happened[event.kind.value] += 1
        if event.digest is not None:
            self._told_of(account, told_by, event, event.digest)
            if is_first:
                self.budgets.told(told_by, event, event.digest)

    def _told_of(
        self, account: Account, told_by: SimulatedDevice, event: Event, digest: str
    ) -> None:
        """Of a release."""
        device, now = told_by.device, self.fleet.agenda.now
        state = told_by.state
        if event.kind is EventKind.COMMITTED:
            durable = state.outcome == "committed" and state.outcome_digest == digest
            if not durable:
                raise Violation(3, f"{device} tells of a commit that is not recorded")
            self._notes_the_switch(told_by, account)
            self._may_commit(account, told_by, digest, now)
        elif event.kind in _BAD:
            if state.outcome_digest != digest:
                raise Violation(3, f"{device} tells of a failure that is not recorded")
            if state.active is None and self._could_serve(told_by, account):
                raise Violation(4, f"{device} went back to nothing, and had {account.committed}")
            if not told_by.online:
                self.happened["went back while offline"] += 1
            account.failed[digest] = event.retry_epoch
        elif event.kind is EventKind.DRILL_PASSED:
            just_now = event.observed_at == int(told_by.clock_seconds * 1000)
            if just_now and not self._whole(told_by, digest):
                raise Violation(3, f"{device} passed a drill of damaged files")
        elif event.kind is EventKind.SOAK_STARTED:
            account.soak_began.setdefault(event.event_id, now)
            if told_by.around.releases[digest].fault_on(device) is Fault.TRIAL:
                raise Violation(2, f"{device} serves what its own trial must refuse")

    def _may_commit(
        self, account: Account, device: SimulatedDevice, digest: str, now: float
    ) -> None:
        release = device.around.releases[digest]
        if release.fault_on(device.device) in _CANNOT_COMMIT:
            raise Violation(2, f"{device.device} commits to what its own gates must refuse")
        began = account.soak_began.get(f"{MODEL}:{device.state.install}:soak_started")
        least = release.document.variants[0].health.soak.seconds
        lost = len(account.emitted) > 1  # told again after the journal was lost
        if not lost and (began is None or now - began < least - 1):
            raise Violation(2, f"{device.device} commits before its soak is over")

    def exposed(self, device: str, hardware_class: str, digest: str) -> None:
        del hardware_class
        by, account = self.fleet.devices[device], self.accounts[device]
        manifest = by.manifest
        assignment = None if manifest is None else manifest.assignment
        if manifest is None or assignment is None:
            raise Violation(2, f"{device} tries what nobody told it to")
        if by.clock_seconds >= manifest.expires:
            raise Violation(7, f"{device} installs by trust metadata that has expired")
        if by.clock_seconds < by.record.time_floor - SKEW_SECONDS:
            raise Violation(7, f"{device} installs by a clock that cannot be right")
        if account.failed.get(digest, -1) >= by.state.retry_epoch:
            raise Violation(2, f"{device} tries again what failed on it")
        if not self._approved(by.roles.version, digest):
            raise Violation(1, f"{device} tries what is not approved")
        self.signed.may_switch(by, digest, account.switched_at)
        self.budgets.may_install(by, digest)
        offer = assignment.offer
        if assignment.current is not None and assignment.current.digest == digest:
            if digest not in self.completed:
                raise Violation(2, f"{device} was told that a release is current that is not")
        elif offer is not None and offer.release.digest == digest:
            self._let_in(by, manifest, digest)
        else:
            raise Violation(2, f"{device} tries what it was not offered")

    def redeemed(self, device: str, digest: str) -> None:
        """It begins to fetch a release."""
        self.budgets.may_fetch(self.fleet.devices[device], digest)
        self.fleet.controller.redeem(device, digest)

    def drilled(self, device: str, digest: str) -> None:
        by = self.fleet.devices[device]
        if not self._approved(by.roles.version, digest):
            raise Violation(1, f"{device} drills what is not approved")
        if digest == by.work.serving:
            raise Violation(2, f"{device} drills what serves")
        self.signed.may_drill(by)

    def _let_in(self, device: SimulatedDevice, manifest: Manifest, digest: str) -> None:
        assert manifest.assignment is not None
        assert manifest.assignment.offer is not None
        offer = manifest.assignment.offer
        rollout = self.fleet.controller.rollouts[offer.rollout].rollout
        if offer.paused:
            raise Violation(2, f"{device.device} joins a rollout that it knows is paused")
        if not any(
            device.device in wave.pilots
            or (
                device.enrolment_number <= wave.roster
                and place(digest, device.device) <= wave.upto
                and _carries(device.labels, approved)
            )
            for wave, approved in zip(offer.waves, rollout.plan.waves, strict=False)
        ):
            raise Violation(2, f"{device.device} joins a wave that does not let it in")
        reached = self.exposures[offer.rollout][device.hardware_class]
        reached.add(device.device)
        may = allowed(rollout.plan, rollout.waves_open, self.eligible[offer.rollout])
        most = may.get(device.hardware_class, 0)
        if digest not in self.completed and len(reached) > most:
            raise Violation(2, f"{len(reached)} devices have {offer.rollout}, {most} are named")

    # --- the controller ---------------------------------------------------------------------------

    def to_controller(self, device: str, channel: Channel, payload: bytes) -> Any:
        self.checks += 1
        account = self.accounts[device]
        entry = self.fleet.controller.registry.devices[device]
        known = set(entry.told)
        answered = self.fleet.to_controller(device, channel, payload)
        for epoch, mark in entry.marks.items():
            emitted, before = account.emitted[epoch], account.stored.get(epoch, 0)
            if mark.events > len(emitted):
                raise Violation(3, f"{device}: the watermark is ahead of what was ever told")
            if mark.events < before:
                raise Violation(3, f"{device}: the watermark went back")
            new = emitted[before : mark.events]
            missing = [event_id for event_id in new if event_id not in entry.told]
            if missing:
                raise Violation(3, f"{device}: {missing[0]} is lost")
            account.stored[epoch] = mark.events
        if entry.losses:
            raise Violation(3, f"{device}: rows were passed over that nobody had lost")
        if not entry.told >= known:
            raise Violation(3, f"{device}: what was stored is gone")
        return answered

    def stored(self, device: str, fresh: Iterable[Event], known: set[str]) -> None:
        """Events that are about to be stored, and those that are there."""
        for event in fresh:
            if event.event_id in known:
                raise Violation(3, f"{device}: {event.event_id} is stored twice")
            if event.event_id not in self.accounts[device].meant:
                raise Violation(3, f"{device}: {event.event_id} was never told")

    def acknowledged(self, device: SimulatedDevice, rows: Rows) -> None:
        """After each ack: what the device has let go of is stored."""
        entry = self.fleet.controller.registry.devices[device.device]
        mark = entry.marks.get(rows.epoch)
        if rows.acked > (0 if mark is None else mark.events):
            raise Violation(3, f"{device.device} forgot what nobody has")

    def on_publish(self, manifest: Manifest) -> None:
        roles = manifest.roles
        if roles.signer == AUTHORITY:
            self.roles.setdefault(roles.version, roles)
            self.signed.on_roles(roles)
        key = (manifest.hardware_class, manifest.director, manifest.counter)
        said = self.published.setdefault(key, manifest)  # a renewed one ends later, and is no other
        if replace(said, expires=manifest.expires) != manifest:
            raise Violation(7, f"two manifests are number {manifest.counter} of one director")
        offer = None if manifest.assignment is None else manifest.assignment.offer
        if offer is not None:
            phase = self.fleet.controller.rollouts[offer.rollout].rollout.phase
            if phase not in OFFERED:
                raise Violation(2, f"{offer.rollout} is offered and {phase}")

    def on_decision(self, rollout: Rollout, decision: Decision) -> None:
        self.happened[f"rollout {decision.phase}"] += decision.phase is not rollout.phase
        if decision.phase is Phase.COMPLETED:
            self._gate_has_passed(rollout, "completes")
            self.completed.add(rollout.digest)
        if decision.opens is None:
            return
        index = rollout.waves_open
        self.happened["waves opened"] += 1
        if index:
            self._gate_has_passed(rollout, f"opens wave {index + 1}")
        approved = rollout.plan.waves[index]
        self.eligible[rollout.name][index] = {
            name: sum(_carries(entry.labels, approved) for entry in members)
            for name, members in self.fleet.controller.members.items()
            if name in decision.opens
        }

    def _gate_has_passed(self, rollout: Rollout, does: str) -> None:
        """By the verdicts that devices have truly told, of the gates that ask for a number or for
        all of a wave."""
        outcomes = self.fleet.controller.outcomes_of(rollout)
        good = {name for name, one in outcomes.items() if one.outcome is Outcome.OK}
        bad = [name for name, one in outcomes.items() if one.outcome is Outcome.FAILED]
        if bad:
            raise Violation(2, f"{rollout.name} {does} although it failed on {bad[0]}")
        for name in good:
            if not any(
                kind is EventKind.COMMITTED and digest == rollout.digest
                for kind, digest, _ in self.accounts[name].meant.values()
            ):
                raise Violation(7, f"{name} counts as good and never said so")
        index = rollout.waves_open - 1
        approved = rollout.plan.waves[index]
        for hardware_class, waves in rollout.opened.items():
            inside = {
                entry.device
                for entry in self.fleet.controller.members[hardware_class]
                if entry.device in waves[index].pilots
                or (
                    entry.enrolment_number <= waves[index].roster
                    and place(rollout.digest, entry.device) <= waves[index].upto
                    and _carries(entry.labels, approved)
                )
            }
            asked = {
                name
                for name in inside
                if name not in outcomes or outcomes[name].outcome is not Outcome.REFUSED
            }
            needed = min(approved.ok_min, len(inside)) if approved.ok_min else len(asked)
            if inside and len(inside & good) < max(1, needed):
                verdicts = f"{len(inside & good)} good verdicts of {needed}"
                raise Violation(2, f"{rollout.name} {does} with {verdicts} in {hardware_class}")

    def on_reconcile(self, before: int) -> None:
        """``before``: manifests that were published before it."""
        controller = self.fleet.controller
        if self.fleet.network.published - before > len(controller.classes):
            raise Violation(6, "more than one message a class was published")


def place(seed: str, device: str) -> str:
    """Where a device stands for a release, by DESIGN section 6."""
    return hashlib.sha256(seed.encode() + b"\0" + device.encode()).digest()[:8].hex()


def _carries(labels: Any, approved: PlanWave) -> bool:
    return all(labels.get(name) == value for name, value in approved.ring.items())
