"""What a device does with its model: the agent's `ModelLoop` without processes and files.

The decisions and the records are the agent's own; how long things take and end is made up.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from mailboat_agent.update import moves
from mailboat_agent.update.decide import decide
from mailboat_agent.update.refuge import refuge, should_serve
from mailboat_agent.update.situation import Situation
from mailboat_agent.update.soak import Verdict, judge_soak
from mailboat_agent.update.state import Installed, ModelState
from mailboat_agent.update.steps import (
    Activate,
    BeginSoak,
    GoBack,
    Keep,
    Refusal,
    RunShadow,
    RunTrial,
    Stage,
    StartTrial,
    Step,
    Suspend,
    WatchSoak,
)
from mailboat_controller.simulate.download import Download
from mailboat_controller.simulate.garbage import collect
from mailboat_controller.simulate.live_traffic import next_look_seconds, stats_of
from mailboat_controller.simulate.own_facts import budgets_of
from mailboat_controller.simulate.releases import MODEL, Fault, SimulatedRelease
from mailboat_controller.simulate.settled import Settled
from mailboat_controller.simulate.trial_gates import trial_failure
from mailboat_controller.simulate.waiting import NextLook
from mailboat_schemas.class_budgets import ClassBudgets
from mailboat_schemas.events import EventKind
from mailboat_schemas.reports import ModelPhase

if TYPE_CHECKING:
    from mailboat_controller.simulate.device import SimulatedDevice

STEPS_A_LOOK_MAX = 16  # an install that nothing delays takes six


class ModelWork:
    __slots__ = (
        "_device", "_doing", "_next_look", "_settled", "_soak_at", "_tidy", "attempt_running",
        "download", "refused", "serving", "trial_passed",
    )  # fmt: skip

    def __init__(self, device: "SimulatedDevice") -> None:
        self._device = device
        self.download = Download(device)
        self._next_look = NextLook(device)
        self._settled = Settled(device)
        self.stop()

    def stop(self) -> None:
        """What a process does not outlive."""
        self.download.stop()
        self.serving = ""  # digest of the release in memory; its bytes were verified
        self.attempt_running = self.trial_passed = False
        self._tidy: tuple[object, ...] = ()  # as things stood when garbage was collected
        self._soak_at = 0.0
        self._next_look.forget()
        self.refused: tuple[Refusal, ...] = ()  # at the newest look
        self._doing = 0  # of a trial or a soak that ends: is it the one that was begun last?

    @property
    def is_open(self) -> bool:
        return self.attempt_running or self.trial_passed

    def situation(self) -> Situation:
        device = self._device
        return Situation(
            model=MODEL,
            assignment=None if device.manifest is None else device.manifest.assignment,
            state=device.state,
            facts=device.facts(),
            known=device.roles.known,
            attempt_running=self.attempt_running,
            trial_passed=self.trial_passed,
            in_memory=self.serving,
            set_aside=device.disk.set_aside,
            stopped=device.rules.staleness.stopped,
            cannot_fetch=self.download.came_to_nothing,
        )

    # --- look -------------------------------------------------------------------------------------

    def look(self) -> None:
        """Decide and do, until something has to be waited for."""
        device = self._device
        for _ in range(STEPS_A_LOOK_MAX):
            self.bar_what_is_withdrawn()
            device.rules.look()
            if self._settled.would_keep_again():
                return
            situation = self.situation()
            step = decide(situation, device.now)
            self.refused = getattr(step, "refusals", ())
            self.download.drop_if_pointless(step)
            if not isinstance(step, GoBack | Suspend | Activate):
                self._ensure_serving(situation)
            if not self._act(step):
                self._settled.decided(step)
                return
        raise AssertionError(f"{device.device} goes round in circles: {step.because}")

    def on_link(self) -> None:
        if self.download.on_link():
            self.look()

    def begin_serving(self) -> None:
        if self._device.state.phase is not ModelPhase.SOAK:
            self._ensure_serving(self.situation())

    def on_new_manifest(self) -> None:
        self.download.forget_failures()
        self.bar_what_is_withdrawn()

    def bar_what_is_withdrawn(self) -> None:
        """At once, whatever else goes on."""
        if self.serving and not self._device.roles.approves(self.serving):
            self.serving = ""

    def _ensure_serving(self, situation: Situation) -> None:
        wanted = should_serve(situation)
        if wanted.release is None or not wanted.allowed:
            self.serving = ""
        elif self.serving != wanted.release.digest and wanted.intact:
            self._load(wanted.release)

    def _load(self, release: Installed) -> bool:
        """From verified bytes, or not at all."""
        device = self._device
        files = self._release(release.digest).files
        if device.disk.is_whole(files):
            self.serving = release.digest
            return True
        device.disk.set_rotten_aside()
        device.tell_trouble(EventKind.STORAGE_DAMAGED, f"damaged:{device.record.session}:load")
        device.later(0.0, device.look)
        return False

    def _release(self, digest: str) -> SimulatedRelease:
        return self._device.around.releases[digest]

    # --- act --------------------------------------------------------------------------------------

    def _act(self, step: Step) -> bool:
        """True: look again at once, something has moved."""
        device, state = self._device, self._device.state
        match step:
            case Keep():
                device.tell_refusals(step.refusals)
                self._tidy = collect(device, self._tidy)
                self._next_look.when_it_is_time(step.refusals)
                return False
            case Stage():
                device.tell_refusals(step.refusals)
                self.download.stage(step)
                return False
            case StartTrial():
                device.tell_refusals(step.refusals)
                return self._start_trial(step)
            case RunTrial():
                device.make(moves.spent_try(state))
                self.attempt_running = True
                trial = partial(self._tried, budgets_of(device))
                self._begin(device.around.timing.trial_seconds, trial)
                return False
            case RunShadow() | Suspend():
                return False  # these releases have no shadow, and this metadata always verifies
            case Activate():
                return self._activate(state)
            case BeginSoak():
                device.make(moves.spent_try(state))
                self._soak_begins()
                return True
            case WatchSoak():
                return self._watch_soak(state)
            case GoBack():
                return self.go_back(step)

    def _start_trial(self, step: StartTrial) -> bool:
        device, state = self._device, self._device.state
        if state.phase is ModelPhase.SOAK:
            state = moves.superseded_in_soak(state, f"{step.candidate.version} comes instead")
            device.make(state)
        self._forget_probation()
        device.tell_what_the_state_implies()  # the next record overwrites this one
        install = device.record.next_install
        tries = device.around.timing.tries
        device.make(moves.started_trial(state, step.candidate, tries=tries, install=install))
        device.around.watch.exposed(device.device, device.hardware_class, step.candidate.digest)
        return True

    def _tried(self, budgets: ClassBudgets) -> None:
        """By what its class allowed as it began."""
        device, active = self._device, self._device.state.active
        self.attempt_running = False
        if active is None:
            return
        release = self._release(active.digest)
        failed = trial_failure(release, device.hardware_class, device.device, budgets)
        if release.fault_on(device.device) is Fault.REBOOT:
            device.power_cut()
        elif failed:
            self.fail(EventKind.TRIAL_FAILED, failed)
        else:
            self.trial_passed = True
        if device.up:
            device.look()

    def _activate(self, state: ModelState) -> bool:
        device, active = self._device, state.active
        if active is None or not self._load(active):
            return False
        device.make(moves.began_soak(state, tries=device.around.timing.tries))
        self._forget_probation()
        self._soak_begins()
        return True

    def _soak_begins(self) -> None:
        self.attempt_running, self._soak_at = True, self._device.around.agenda.now

    def _watch_soak(self, state: ModelState) -> bool:
        device, active = self._device, state.active
        if active is None or self.serving != active.digest:
            return False  # not loaded yet: the soak has not begun
        release = self._release(active.digest)
        soak = release.document.variants[0].health.soak
        elapsed = device.around.agenda.now - self._soak_at
        fails = release.fault_on(device.device) is Fault.SOAK
        spans = {"elapsed_seconds": elapsed, "soak_seconds": soak.seconds}
        stats = stats_of(**spans, fails=fails)
        judgement = judge_soak(soak, stats, elapsed)
        match judgement.verdict:
            case Verdict.WAIT:
                self._begin(next_look_seconds(**spans, fails=fails), device.look)
                return False
            case Verdict.PASSED:
                reached = release.document.security_version
                because, at = judgement.because, device.now
                device.make(moves.committed(state, because, security_version=reached, at=at))
                self._forget_probation()
            case Verdict.FAILED:
                self.fail(EventKind.ROLLED_BACK, judgement.code)
        return True

    def fail(self, kind: EventKind, code: str) -> None:
        """A verdict on what is active."""
        to = refuge(self.situation())
        self.go_back(GoBack(to=to, kind=kind, code=code, because=code))

    def go_back(self, step: GoBack) -> bool:
        """Serve the predecessor first, then record."""
        if step.to is None:
            self.serving = ""
        elif step.to.digest == self.situation().stopped:
            self.serving = ""  # gone back to, and serves no more there than before
        elif self.serving != step.to.digest and not self._load(step.to):
            return False  # its file has rotted: decided anew
        self._device.make(moves.went_back(self._device.state, step))
        self._forget_probation()
        return True

    def _forget_probation(self) -> None:
        self.attempt_running = self.trial_passed = False
        self._doing += 1

    def _begin(self, seconds: float, ends: Callable[[], None]) -> None:
        self._doing += 1
        self._device.later(seconds, self._over, self._doing, ends)

    def _over(self, doing: int, ends: Callable[[], None]) -> None:
        if doing == self._doing:
            ends()
