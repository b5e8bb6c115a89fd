"""One model's loop: look, decide, record, act. What takes long runs beside it, one thing at a time.

The record says where the model stands; what is kept here besides (whether this process has begun
the recorded attempt, when to try again) may be lost at any moment.
"""

import asyncio
import logging
import random
from collections.abc import Callable

from mailboat_agent.absence import bar_what_is_withdrawn, tell_callers
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.artifacts.staging import Staging
from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.errand import Errands, Kind, Work
from mailboat_agent.facts import Device, Look
from mailboat_agent.fetching import Progress
from mailboat_agent.ledger import Ledger
from mailboat_agent.model_record import ModelRecord
from mailboat_agent.model_results import ModelResults
from mailboat_agent.model_return import ModelReturn
from mailboat_agent.model_view import ModelView
from mailboat_agent.probation import Probation
from mailboat_agent.restarts import Restart
from mailboat_agent.trust.manifest import Manifest
from mailboat_agent.update import moves
from mailboat_agent.update.decide import REFUSING_CHECKS, decide
from mailboat_agent.update.drill import Target, drill_target
from mailboat_agent.update.refuge import fall_back_to, should_serve
from mailboat_agent.update.retry import Backoff
from mailboat_agent.update.situation import Situation
from mailboat_agent.update.soak import Verdict
from mailboat_agent.update.state import Installed, ModelState
from mailboat_agent.update.steps import (
    Activate,
    BeginSoak,
    GoBack,
    Keep,
    RunShadow,
    RunTrial,
    Stage,
    StartTrial,
    Step,
    Suspend,
    WatchSoak,
)
from mailboat_agent.work import Workbench
from mailboat_schemas.errors import DiskFull, MailboatError
from mailboat_schemas.events import EventKind
from mailboat_schemas.reports import ModelPhase

_log = logging.getLogger(__name__)


class ModelLoop:
    def __init__(
        self,
        model: str,
        *,
        device: Device,
        ledger: Ledger,
        manifest: Manifest,
        store: ReleaseStore,
        bench: Workbench,
        rng: random.Random,
        tries: int,
        start_jitter_seconds: float,
        wake: Callable[[], None],
    ) -> None:
        """``wake`` asks for another look soon; it may be called at any time."""
        self.model = model
        self.view = ModelView(model, device=device, ledger=ledger, manifest=manifest, store=store)
        self._ledger = ledger
        self._bench = bench
        self._tries = tries
        self._record = ModelRecord(model, ledger, wake)
        self._staging = Staging(device.device, start_jitter_seconds=start_jitter_seconds, rng=rng)
        self.probation = Probation()
        self._loading, self._recording = Backoff(rng), Backoff(rng)
        self._errands = Errands(model, bench=bench, manifest=manifest, wake=wake)
        self._way_back = ModelReturn(
            self._record,
            errands=self._errands,
            probation=self.probation,
            loading=self._loading,
            situation=self._situation,
        )
        self._results = ModelResults(
            self._record,
            errands=self._errands,
            staging=self._staging,
            probation=self.probation,
            loading=self._loading,
            tries=tries,
            way_back=self._way_back,
        )
        self._restart = Restart(model, ledger)
        self.step: Step = Keep(because="not looked at yet")
        self.because = ""

    @property
    def work(self) -> Work | None:
        """What runs beside the loop now."""
        return self._errands.running

    @property
    def is_moving(self) -> bool:
        """Whether it is on its way to a release that ran here before, whichever it is."""
        moves_now = self.work is not None and self.work.kind in (Kind.GO_BACK, Kind.SERVE)
        return self._way_back.owes or moves_now

    @property
    def waits_for_budget(self) -> bool:
        """Whether a whole file waits for the budget of a metered link."""
        return self._staging.waits_for_budget and isinstance(self.step, Stage)

    @property
    def progress(self) -> Progress:
        return self._errands.progress

    @property
    def state(self) -> ModelState:
        return self.view.state

    def _situation(self, look: Look) -> Situation:
        return self.view.situation(
            look,
            attempt_running=self.probation.running,
            trial_passed=self.probation.trial_passed,
            shadow_over=self.probation.shadow_over,
            in_memory=self._bench.in_memory(self.model),
            cannot_fetch=self._results.cannot_fetch,
        )

    def drill_target(self, look: Look) -> Target:
        """Where a rollback of what serves would go now."""
        return drill_target(self._situation(look))

    def on_new_manifest(self) -> None:
        self._staging.forget()
        self._results.cannot_fetch = ""
        self.bar_what_is_withdrawn()

    def on_files(self) -> None:
        """Somebody carried files here that a release may lack."""
        if isinstance(self.step, Stage):  # what else may come next waits its time
            self._staging.may_begin(self.step.candidate.digest, 0.0)
        self._staging.files_came()

    def bar_what_is_withdrawn(self) -> None:
        """At once, whatever runs beside the loop: nothing that is not approved serves, or will."""
        bar_what_is_withdrawn(self.view, self._bench, self.work)
        tell_callers(self.view, self._bench, self.because)

    def begin_serving(self, look: Look) -> None:
        """At the start, before anything is decided. A soak's attempt has to be counted first."""
        self.bar_what_is_withdrawn()
        if self.state.phase is not ModelPhase.SOAK:
            self._ensure_serving(self._situation(look), self.step, look)

    async def look(self, look: Look) -> None:
        """One look. What a later look can cure is logged, and the loop goes on."""
        self.bar_what_is_withdrawn()
        if not self._recording.allows(look.monotonic):
            return
        try:
            await self._look(look)
        except MailboatError as error:
            # The disk, mostly. What was not recorded was not done either, and it serves on.
            self._recording.failed(look.monotonic)
            self.because = error.what
            _log.warning("%s: %s", self.model, error)
        else:
            self._recording.forget()
        serving = self._bench.serving(self.model)
        self._restart.look(self.state, "" if serving is None else serving.digest, look)
        tell_callers(self.view, self._bench, self.because)

    async def _look(self, look: Look) -> None:
        if self.work is not None:
            if not self.work.task.done() and not await self._dropped(self.work, look):
                self.because = self._errands.because or self.because
                return
            self._results.collect(self.work, look)
        if self.work is None:
            self._way_back.settle(look)
        if self.work is not None or self._way_back.owes:
            return
        situation = self._situation(look)
        self.step = step = decide(situation, look.now)
        self.because = step.because
        match step:
            case GoBack():
                self._way_back.go_back(step, {}, look)
            case Suspend():
                self._errands.stop(step)
            case Activate():
                self._load(Kind.ACTIVATE, self.state.active, step, look)
            case BeginSoak():
                self._begin_soak(situation, step, look)
            case Keep() | Stage() | StartTrial() | RunTrial() | RunShadow() | WatchSoak():
                if not self._ensure_serving(situation, step, look):
                    self._advance(step, look)

    def _advance(
        self, step: Keep | Stage | StartTrial | RunTrial | RunShadow | WatchSoak, look: Look
    ) -> None:
        if isinstance(step, Keep | Stage | StartTrial):
            for refusal in step.refusals:
                if refusal.check.name in REFUSING_CHECKS:
                    self._ledger.tell_refusal(self.model, refusal, look.now)
        match step:
            case Keep():
                pass
            case Stage():
                self._stage(step, look)
            case StartTrial():
                self._start_trial(step, look)
            case RunTrial():
                self._run_trial(step, look)
            case RunShadow():
                self._run_shadow(step, look)
            case WatchSoak():
                self._watch_soak(look)

    def _begin_soak(self, situation: Situation, step: BeginSoak, look: Look) -> None:
        try:
            self._record.make(moves.spent_try(self.state), look)
        except (DiskFull, DiskFailing):
            # An attempt that cannot be counted is none: what served before does meanwhile, and
            # where there is nothing else, the release itself.
            if self._bench.serving(self.model) is None:
                self._load(Kind.SERVE, fall_back_to(situation) or self.state.active, step, look)
            raise
        digest = "" if self.state.active is None else self.state.active.digest
        self.probation.begin(self._errands.posted(digest))

    def _start_trial(self, step: StartTrial, look: Look) -> None:
        state = self.state
        if state.phase is ModelPhase.SOAK:
            because = f"{step.candidate.version} comes instead"
            self._record.make(state := moves.superseded_in_soak(state, because), look)
        self.probation.forget()
        self._ledger.require_told(self.model, look.now)  # the next record overwrites this one
        install = self._ledger.state.next_install
        started = moves.started_trial(state, step.candidate, tries=self._tries, install=install)
        self._record.make(started, look, self._errands.delivery(step.candidate.digest))

    # --- act: begin ------------------------------------------------------------------------------

    def _stage(self, step: Stage, look: Look) -> None:
        if self._staging.trouble:
            self.because = f"{step.because}; {self._staging.trouble}"
        candidate = step.candidate
        document, urgent = candidate.document, candidate.is_emergency
        if document and self._staging.may_begin(
            candidate.digest, look.monotonic, is_emergency=urgent
        ):
            most = self.view.rules.metered_file_bytes_max
            self._errands.stage(document, step, whole_file_bytes_max=most)

    def _run_trial(self, step: RunTrial, look: Look) -> None:
        active = self.state.active
        document = self._errands.document(active)
        if active is None or document is None or not self._loading.allows(look.monotonic):
            return
        self._record.make(moves.spent_try(self.state), look)
        self.probation.begin()
        self._errands.run_trial(active, document, step)

    def _run_shadow(self, step: RunShadow, look: Look) -> None:
        active = self.state.active
        document = self._errands.document(active)
        if active is not None and document is not None and self._loading.allows(look.monotonic):
            self._errands.run_shadow(active, document, step)

    def _load(self, kind: Kind, release: Installed | None, step: Step, look: Look) -> bool:
        return self._loading.allows(look.monotonic) and self._errands.load(kind, release, step)

    def _ensure_serving(self, situation: Situation, step: Step, look: Look) -> bool:
        """Begin to serve, or to stop, as the record says; True if something was begun."""
        wanted = should_serve(situation)
        if wanted.release is None or not wanted.allowed:
            return self._errands.stop(step)
        serving = self._bench.serving(self.model)
        if serving is not None and serving.digest == wanted.release.digest:
            return False
        return wanted.intact and self._load(Kind.SERVE, wanted.release, step, look)

    async def _dropped(self, work: Work, look: Look) -> bool:
        """Give up what nobody wants any more. The parts of a download stay until they are garbage,
        the process of a trial ends by itself."""
        if not work.is_pointless(decide(self._situation(look), look.now)):
            return False
        work.task.cancel()
        await asyncio.wait([work.task])
        return True

    def _watch_soak(self, look: Look) -> None:
        active, stats = self.state.active, self._bench.serving(self.model)
        document = self._errands.document(active)
        variant = self.view.variant(document)
        if active is None or document is None or variant is None:
            return
        if stats is None or stats.digest != active.digest:
            return  # not loaded yet: the soak has not begun
        soak, shifts = variant.health.soak, self._bench.shifts(self.model, active.digest)
        if soak.drift is not None and shifts is None:  # a gate that cannot be read is closed
            because = "its reference statistics cannot be read any more"
            self._way_back.fail(EventKind.RETURNED, "storage_damaged", because, {}, look)
            return
        posted = self._errands.posted(active.digest)
        judgement = self.probation.judge(
            soak, stats, look.monotonic, posted=posted, shifts=shifts or ()
        )
        self.because = judgement.because
        match judgement.verdict:
            case Verdict.WAIT:
                pass
            case Verdict.PASSED:
                reached = document.security_version
                moved = moves.committed(
                    self.state, judgement.because, security_version=reached, at=look.now
                )
                self._record.make(moved, look, judgement.evidence)
                self.probation.forget()
            case Verdict.FAILED:
                kind, evidence = EventKind.ROLLED_BACK, judgement.evidence
                self._way_back.fail(kind, judgement.code, judgement.because, evidence, look)
