"""One model's loop: look, decide, record, act. What takes long runs beside it, one thing at a time.

The record says where the model stands; what is kept here besides (whether this process has begun
the recorded attempt, when to try again) may be lost at any moment.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from mailboat_agent.background import Kind, Unforeseen, Work
from mailboat_agent.facts import Device, Look
from mailboat_agent.ledger import Ledger
from mailboat_agent.manifest import Manifest
from mailboat_agent.model_view import ModelView
from mailboat_agent.release_store import ReleaseStore
from mailboat_agent.update import moves
from mailboat_agent.update.decide import (
    REFUSING_CHECKS,
    Situation,
    decide,
    fall_back_to,
    should_serve,
)
from mailboat_agent.update.events import refusal_event
from mailboat_agent.update.retry import Backoff
from mailboat_agent.update.soak import SoakStats, Verdict, judge_soak
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
from mailboat_schemas import cohort
from mailboat_schemas.eligibility import Check
from mailboat_schemas.errors import (
    ArtifactMissing,
    DigestMismatch,
    MailboatError,
    ReleaseRejected,
    Transient,
    TrialFailed,
)
from mailboat_schemas.events import EventKind
from mailboat_schemas.reports import ModelPhase

LOAD_ATTEMPTS_MAX = 3  # at a release that passed its trial, before that is a verdict on it
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
        self._device = device
        self._ledger = ledger
        self._manifest = manifest
        self._bench = bench
        self._tries = tries
        self._start_jitter_seconds = start_jitter_seconds
        self._wake = wake
        self._fetching, self._loading, self._recording = (Backoff(rng) for _ in range(3))
        self._attempt_running = False
        self._trial_passed = False
        self._soak_began: float | None = None
        self._start_at: tuple[str, float] = ("", 0.0)  # a candidate, and when its jitter is over
        self._refused_download = ""  # a candidate whose bytes came out wrong, until a new manifest
        self.work: Work | None = None
        self.step: Step = Keep(because="not looked at yet")
        self.because = ""
        self.progress = Progress()

    @property
    def state(self) -> ModelState:
        return self.view.state

    def _situation(self, look: Look) -> Situation:
        return self.view.situation(
            look, attempt_running=self._attempt_running, trial_passed=self._trial_passed
        )

    def on_new_manifest(self) -> None:
        """What was refused or failed before may be in order now."""
        self._fetching.forget()
        self._refused_download = ""

    async def look(self, look: Look) -> None:
        """One look. What a later look can cure is logged, and the loop goes on."""
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
                self._stop(step)
            case Activate():
                self._load(Kind.ACTIVATE, self.state.active, step, look)
            case BeginSoak():
                self._record(moves.spent_try(self.state), look)
                self._attempt_running, self._soak_began = True, None
            case Keep() | Stage() | StartTrial() | RunTrial() | WatchSoak():
                if not self._ensure_serving(situation, step, look):
                    self._advance(step, look)

    def _advance(self, step: Keep | Stage | StartTrial | RunTrial | WatchSoak, look: Look) -> None:
        if isinstance(step, Keep | Stage | StartTrial):
            for refusal in step.refusals:
                self._tell_refusal(refusal, look)
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

    def _tell_refusal(self, refusal: Refusal, look: Look) -> None:
        if refusal.check.name in REFUSING_CHECKS:
            serving = self.state.serving
            self._ledger.tell(refusal_event(self.model, refusal, serving, look.now))

    # --- record ----------------------------------------------------------------------------------

    def _record(
        self, state: ModelState, look: Look, evidence: Mapping[str, Any] | None = None
    ) -> None:
        self._ledger.record(self.model, state, look.now, evidence)
        self._wake()

    def _forget_attempt(self) -> None:
        self._attempt_running = self._trial_passed = False
        self._soak_began = None

    def _start_trial(self, step: StartTrial, look: Look) -> None:
        state = self.state
        if state.phase is ModelPhase.SOAK:
            because = f"{step.candidate.version} comes instead"
            state = moves.superseded_in_soak(state, because)
            self._record(state, look)
        self._forget_attempt()
        self._record(moves.started_trial(state, step.candidate, tries=self._tries), look)

    def _record_return(self, step: GoBack, evidence: Mapping[str, Any], look: Look) -> None:
        self._record(moves.went_back(self.state, step), look, evidence)
        self._forget_attempt()

    # --- act: begin ------------------------------------------------------------------------------

    def _begin(
        self,
        kind: Kind,
        digest: str,
        step: Step,
        work: Coroutine[Any, Any, Any],
        evidence: Mapping[str, Any] | None = None,
    ) -> None:
        task = asyncio.create_task(work, name=f"{kind}-{self.model}")
        task.add_done_callback(lambda _: self._wake())
        self.work = Work(kind, digest, step, task, evidence or {})

    def _stage(self, step: Stage, look: Look) -> None:
        candidate = step.candidate
        if self._start_at[0] != candidate.digest:
            fraction = cohort.start_fraction(candidate.digest, self._device.device)
            wait_seconds = fraction * self._start_jitter_seconds
            self._start_at = (candidate.digest, look.monotonic + wait_seconds)
        allowed = look.monotonic >= self._start_at[1] and self._fetching.allows(look.monotonic)
        if candidate.document is None or candidate.digest == self._refused_download or not allowed:
            return
        self.progress = Progress()
        work = self._bench.stage(candidate.document, self.progress)
        self._begin(Kind.STAGE, candidate.digest, step, work)

    def _run_trial(self, step: RunTrial, look: Look) -> None:
        active = self.state.active
        document = None if active is None else self._manifest.document(active.digest)
        if active is None or document is None or not self._loading.allows(look.monotonic):
            return
        self._record(moves.spent_try(self.state), look)
        self._attempt_running = True
        self._begin(Kind.TRIAL, active.digest, step, self._bench.run_trial(document))

    def _load(self, kind: Kind, release: Installed | None, step: Step, look: Look) -> bool:
        document = None if release is None else self._manifest.document(release.digest)
        if release is None or document is None or not self._loading.allows(look.monotonic):
            return False
        self._begin(kind, release.digest, step, self._bench.serve(document, release.digest))
        return True

    def _stop(self, step: Step) -> bool:
        if self._bench.serving(self.model) is None:
            return False
        self._begin(Kind.STOP, "", step, self._bench.stop(self.model))
        return True

    def _ensure_serving(self, situation: Situation, step: Step, look: Look) -> bool:
        """Begin to serve, or to stop, as the record says; True if something was begun."""
        wanted = should_serve(situation)
        if wanted.release is None or not wanted.allowed:
            return self._stop(step)
        serving = self._bench.serving(self.model)
        if serving is not None and serving.digest == wanted.release.digest:
            return False
        if wanted.intact and self._load(Kind.SERVE, wanted.release, step, look):
            return True
        # What is wanted cannot be loaded now. What serves meanwhile must not be withdrawn.
        state = self.state
        withdrawn = serving is not None and serving.digest == state.outcome_digest
        return withdrawn and state.outcome_code == "withdrawn" and self._stop(step)

    def _go_back(self, step: GoBack, evidence: Mapping[str, Any], look: Look) -> None:
        """Serve the predecessor first, then record: there is always one that serves."""
        serving = self._bench.serving(self.model)
        document = None if step.to is None else self._manifest.document(step.to.digest)
        if step.to is not None and document is not None:
            if serving is None or serving.digest != step.to.digest:
                work = self._bench.serve(document, step.to.digest)
                self._begin(Kind.GO_BACK, step.to.digest, step, work, evidence)
                return
        elif serving is not None:
            self._begin(Kind.GO_BACK, "", step, self._bench.stop(self.model), evidence)
            return
        self._record_return(step, evidence, look)

    # --- act: collect ----------------------------------------------------------------------------

    async def _dropped(self, work: Work, look: Look) -> bool:
        """Give up a download that nobody wants any more. Its parts stay until they are garbage."""
        if work.kind is not Kind.STAGE:
            return False
        step = decide(self._situation(look), look.now)
        if isinstance(step, Stage) and step.candidate.digest == work.digest:
            return False
        work.task.cancel()
        await asyncio.wait([work.task])
        return True

    def _collect(self, work: Work, look: Look) -> None:
        """Record what came of it. May begin the next thing."""
        self.work = None
        if work.task.cancelled():
            return
        error = work.task.exception()
        if error is not None and not isinstance(error, MailboatError):
            _log.error("%s of %s failed unexpectedly", work.kind, self.model, exc_info=error)
            error = Unforeseen(f"{type(error).__name__}: {error}")
        if isinstance(error, DigestMismatch | ArtifactMissing) and work.kind is not Kind.STAGE:
            self._ledger.tell_damage(self.model, error.what, look.now)
        match work.kind:
            case Kind.STAGE:
                self._collect_stage(work, error, look)
            case Kind.TRIAL:
                self._collect_trial(error, look)
            case Kind.ACTIVATE | Kind.SERVE:
                self._collect_load(work, error, look)
            case Kind.GO_BACK:
                if error is not None:  # the next look tries again to load it
                    self._loading.failed(look.monotonic)
                    _log.warning("%s: the predecessor cannot be loaded: %s", self.model, error)
                if isinstance(work.step, GoBack):
                    self._record_return(work.step, work.evidence, look)
            case Kind.STOP:
                pass

    def _collect_stage(self, work: Work, error: MailboatError | None, look: Look) -> None:
        if error is None:
            self._fetching.forget()
            return
        _log.warning("%s: fetching a release: %s", self.model, error)
        hint = error.retry_after if isinstance(error, Transient) else None
        self._fetching.failed(look.monotonic, hint.total_seconds() if hint else 0.0)
        if isinstance(error, ReleaseRejected) and isinstance(work.step, Stage):
            self._refused_download = work.digest
            refusal = Refusal(
                candidate=work.step.candidate, check=Check(error.code, False, error.what)
            )
            self._ledger.tell(refusal_event(self.model, refusal, self.state.serving, look.now))

    def _collect_trial(self, error: MailboatError | None, look: Look) -> None:
        self._attempt_running = False
        if error is None:
            self._trial_passed = True
            self._loading.forget()
        elif isinstance(error, TrialFailed):
            evidence = getattr(error, "evidence", {})
            self._fail(EventKind.TRIAL_FAILED, error.reason, error.what, evidence, look)
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
                self._forget_attempt()
                self._attempt_running = True
            return
        _log.warning("%s: loading a release: %s", self.model, error)
        self._loading.failed(look.monotonic)
        damaged = isinstance(error, DigestMismatch | ArtifactMissing)  # decide() sees it missing
        final = isinstance(error, ReleaseRejected) or self._loading.attempts >= LOAD_ATTEMPTS_MAX
        if final and is_active and not damaged:
            match state.phase:
                case ModelPhase.TRIAL:
                    self._fail(EventKind.TRIAL_FAILED, "load_failed", error.what, {}, look)
                case ModelPhase.SOAK:
                    self._fail(EventKind.ROLLED_BACK, "load_failed", error.what, {}, look)
                case ModelPhase.COMMITTED | ModelPhase.ABSENT | ModelPhase.STAGING:
                    pass  # it has served here before: tried again for as long as it takes

    def _fail(
        self,
        kind: EventKind,
        code: str,
        because: str,
        evidence: Mapping[str, Any],
        look: Look,
    ) -> None:
        self._loading.forget()
        to = fall_back_to(self._situation(look))
        self._go_back(GoBack(to=to, kind=kind, code=code, because=because), evidence, look)

    def _watch_soak(self, look: Look) -> None:
        active, stats = self.state.active, self._bench.serving(self.model)
        document = None if active is None else self._manifest.document(active.digest)
        variant = self.view.variant(document)
        if active is None or document is None or variant is None:
            return
        if stats is None or stats.digest != active.digest:
            return  # not loaded yet: the soak has not begun
        if self._soak_began is None:
            self._soak_began = look.monotonic
        soak = SoakStats(
            requests_ok=stats.requests_ok,
            requests_error=stats.requests_error,
            p95_ms=stats.latency_p95_ms,
            worker_restarts=stats.worker_restarts,
        )
        judgement = judge_soak(variant.health.soak, soak, look.monotonic - self._soak_began)
        self.because = judgement.because
        match judgement.verdict:
            case Verdict.WAIT:
                pass
            case Verdict.PASSED:
                moved = moves.committed(
                    self.state, judgement.because, security_version=document.security_version
                )
                self._record(moved, look)
                self._forget_attempt()
            case Verdict.FAILED:
                self._fail(EventKind.ROLLED_BACK, judgement.code, judgement.because, {}, look)
