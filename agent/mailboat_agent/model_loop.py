"""One model's loop: look, decide, record, act. What takes long runs beside it, one thing at a time.

The record says where the model stands; what is kept here besides (whether this process has begun
the recorded attempt, when to try again) may be lost at any moment.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mailboat_agent.absence import absence_of, bar_what_is_withdrawn
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.artifacts.staging import Staging
from mailboat_agent.errand import SAYS_NOTHING, Errands, Kind, Unforeseen, Work
from mailboat_agent.facts import Device, Look
from mailboat_agent.ledger import Ledger
from mailboat_agent.model_view import ModelView
from mailboat_agent.probation import Probation
from mailboat_agent.serving.trial import GateFailed
from mailboat_agent.trust.manifest import Manifest
from mailboat_agent.update import moves
from mailboat_agent.update.decide import REFUSING_CHECKS, decide
from mailboat_agent.update.refuge import refuge, should_serve
from mailboat_agent.update.retry import Backoff, left_as
from mailboat_agent.update.situation import Situation, may_serve
from mailboat_agent.update.soak import Verdict
from mailboat_agent.update.state import Installed, ModelState
from mailboat_agent.update.steps import (
    Activate,
    BeginSoak,
    GoBack,
    Keep,
    Refusal,
    RunTrial,
    Stage,
    StartTrial,
    Step,
    Suspend,
    WatchSoak,
)
from mailboat_agent.work import Progress, Workbench
from mailboat_schemas.eligibility import Check
from mailboat_schemas.errors import ArtifactMissing, DigestMismatch, MailboatError, ReleaseRejected
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
        self._wake = wake
        self._staging = Staging(device.device, start_jitter_seconds=start_jitter_seconds, rng=rng)
        self.probation = Probation()
        self._loading, self._recording = Backoff(rng), Backoff(rng)
        self._errands = Errands(model, bench=bench, manifest=manifest, wake=wake)
        self.step: Step = Keep(because="not looked at yet")
        self.because = ""

    @property
    def work(self) -> Work | None:
        """What runs beside the loop now."""
        return self._errands.running

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
        )

    def on_new_manifest(self) -> None:
        self._staging.forget()
        self.bar_what_is_withdrawn()

    def bar_what_is_withdrawn(self) -> None:
        """At once, whatever runs beside the loop: nothing that is not approved serves, or will."""
        bar_what_is_withdrawn(self.view, self._bench, self.work)

    def begin_serving(self, look: Look) -> None:
        """At the start, before anything is decided. A soak's attempt has to be counted first."""
        self.bar_what_is_withdrawn()
        self._bench.explain_absence(self.model, absence_of(self.state, ""))
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
        self._bench.explain_absence(self.model, absence_of(self.state, self.because))

    async def _look(self, look: Look) -> None:
        if self.work is not None:
            if not self.work.task.done() and not await self._dropped(self.work, look):
                return
            self._collect(self.work, look)
            if self.work is not None:
                return
        situation = self._situation(look)
        self.step = step = decide(situation, look.now)
        self.because = step.because
        match step:
            case GoBack():
                self._go_back(step, {}, look)
            case Suspend():
                self._errands.stop(step)
            case Activate():
                self._load(Kind.ACTIVATE, self.state.active, step, look)
            case BeginSoak():
                self._record(moves.spent_try(self.state), look)
                self.probation.begin()
            case Keep() | Stage() | StartTrial() | RunTrial() | WatchSoak():
                if not self._ensure_serving(situation, step, look):
                    self._advance(step, look)

    def _advance(self, step: Keep | Stage | StartTrial | RunTrial | WatchSoak, look: Look) -> None:
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
            case WatchSoak():
                self._watch_soak(look)

    def _record(
        self, state: ModelState, look: Look, evidence: Mapping[str, Any] | None = None
    ) -> None:
        self._ledger.record(self.model, state, look.now, evidence)
        self._wake()

    def _start_trial(self, step: StartTrial, look: Look) -> None:
        state = self.state
        if state.phase is ModelPhase.SOAK:
            because = f"{step.candidate.version} comes instead"
            self._record(state := moves.superseded_in_soak(state, because), look)
        self.probation.forget()
        self._ledger.require_told(self.model, look.now)  # the next record overwrites this one
        install = self._ledger.state.next_install
        started = moves.started_trial(state, step.candidate, tries=self._tries, install=install)
        self._record(started, look, self._errands.delivery(step.candidate.digest))

    def _record_return(self, step: GoBack, evidence: Mapping[str, Any], look: Look) -> None:
        self._record(moves.went_back(self.state, step), look, evidence)
        self.probation.forget()

    # --- act: begin ------------------------------------------------------------------------------

    def _stage(self, step: Stage, look: Look) -> None:
        if self._staging.trouble:
            self.because = f"{step.because}; {self._staging.trouble}"
        document = step.candidate.document
        if document and self._staging.may_begin(step.candidate.digest, look.monotonic):
            self._errands.stage(document, step)

    def _run_trial(self, step: RunTrial, look: Look) -> None:
        active = self.state.active
        document = self._errands.document(active)
        if active is None or document is None or not self._loading.allows(look.monotonic):
            return
        self._record(moves.spent_try(self.state), look)
        self.probation.begin()
        self._errands.run_trial(active, document, step)

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

    def _go_back(self, step: GoBack, evidence: Mapping[str, Any], look: Look) -> None:
        """Serve the predecessor first, then record: there is always one that serves."""
        if not self._errands.go_back(step, evidence):
            self._record_return(step, evidence, look)

    # --- act: collect ----------------------------------------------------------------------------

    async def _dropped(self, work: Work, look: Look) -> bool:
        """Give up what nobody wants any more. The parts of a download stay until they are garbage,
        the process of a trial ends by itself."""
        if not work.is_pointless(decide(self._situation(look), look.now)):
            return False
        work.task.cancel()
        await asyncio.wait([work.task])
        return True

    def _collect(self, work: Work, look: Look) -> None:
        """Record what came of it. May begin the next thing."""
        self._errands.running = None
        self._errands.tell_failed_deltas(self._ledger, work, look.now)
        if work.task.cancelled():
            return
        error = work.failure()
        if isinstance(error, DigestMismatch | ArtifactMissing) and work.kind is not Kind.STAGE:
            self._ledger.tell_damage(self.model, error.what, look.now)
        self._ledger.tell_tampering(work.digest, error, look.now)
        match work.kind:
            case Kind.STAGE:
                self._collect_stage(work, error, look)
            case Kind.TRIAL:
                self._collect_trial(error, look)
            case Kind.ACTIVATE | Kind.SERVE:
                self._collect_load(work, error, look)
            case Kind.GO_BACK:
                if error:  # the next look tries again
                    self._loading.failed(look.monotonic)
                    _log.warning("%s: the predecessor cannot be loaded: %s", self.model, error)
                if isinstance(work.step, GoBack):
                    self._collect_return(work.step, work.evidence, look)
            case Kind.STOP:
                pass

    def _collect_return(self, step: GoBack, evidence: Mapping[str, Any], look: Look) -> None:
        """Record it, unless where it goes was withdrawn on the way. Then a verdict goes elsewhere,
        and a mere return is decided anew."""
        situation = self._situation(look)
        if step.to is None or may_serve(situation, step.to):
            self._record_return(step, evidence, look)
        elif step.kind in moves.VERDICTS:
            self._go_back(replace(step, to=refuge(situation)), evidence, look)

    def _collect_stage(self, work: Work, error: MailboatError | None, look: Look) -> None:
        if error is None:
            self._staging.forget()
            return
        _log.warning("%s: fetching a release: %s", self.model, error)
        self._staging.failed(error, look.monotonic)
        if isinstance(error, ReleaseRejected) and isinstance(work.step, Stage):
            check = Check(error.code, False, error.what)
            refusal = Refusal(candidate=work.step.candidate, check=check)
            self._ledger.tell_refusal(self.model, refusal, look.now)

    def _collect_trial(self, error: MailboatError | None, look: Look) -> None:
        self.probation.ended_trial(passed=error is None)
        if error is None:
            self._loading.forget()
        elif isinstance(error, GateFailed):
            self._fail(EventKind.TRIAL_FAILED, error.reason, error.what, error.evidence, look)
        else:
            # Not the release's doing. The try is given back, so that it is no verdict.
            _log.warning("%s: the trial could not be run: %s", self.model, error)
            self._loading.failed(look.monotonic)
            if not isinstance(error, Unforeseen):
                self._record(moves.returned_try(self.state), look)

    def _collect_load(self, work: Work, error: MailboatError | None, look: Look) -> None:
        state = self.state
        is_active = state.active is not None and state.active.digest == work.digest
        if error is None:
            self._loading.forget()
            if work.kind is Kind.ACTIVATE and is_active and state.phase is ModelPhase.TRIAL:
                self._record(moves.began_soak(state, tries=self._tries), look)
                self.probation.forget()
                self.probation.begin()
            return
        _log.warning("%s: loading a release: %s", self.model, error)
        self._loading.failed(look.monotonic)
        # decide() sees what is damaged; a worker that did not start says nothing about the release.
        if not is_active or isinstance(error, SAYS_NOTHING):
            return
        rejected = isinstance(error, ReleaseRejected)
        kind = left_as(state.phase, attempts=self._loading.attempts, rejected=rejected)
        if kind is not None:
            self._fail(kind, "load_failed", error.what, {}, look)

    def _fail(
        self, kind: EventKind, code: str, because: str, evidence: Mapping[str, Any], look: Look
    ) -> None:
        to = refuge(self._situation(look))
        if to is None and kind is EventKind.RETURNED:
            return  # no verdict and nowhere to go: it is tried for as long as it takes
        self._loading.forget()
        self._go_back(GoBack(to=to, kind=kind, code=code, because=because), evidence, look)

    def _watch_soak(self, look: Look) -> None:
        active, stats = self.state.active, self._bench.serving(self.model)
        document = self._errands.document(active)
        variant = self.view.variant(document)
        if active is None or document is None or variant is None:
            return
        if stats is None or stats.digest != active.digest:
            return  # not loaded yet: the soak has not begun
        judgement = self.probation.judge(variant.health.soak, stats, look.monotonic)
        self.because = judgement.because
        match judgement.verdict:
            case Verdict.WAIT:
                pass
            case Verdict.PASSED:
                reached = document.security_version
                moved = moves.committed(self.state, judgement.because, security_version=reached)
                self._record(moved, look)
                self.probation.forget()
            case Verdict.FAILED:
                self._fail(EventKind.ROLLED_BACK, judgement.code, judgement.because, {}, look)
