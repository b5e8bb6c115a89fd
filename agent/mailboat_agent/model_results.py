"""What came of an errand, and what the record says then. May begin the next thing."""

import logging

from mailboat_agent.artifacts.staging import Staging
from mailboat_agent.errand import SAYS_NOTHING, SAYS_WAIT, Errands, Kind, Unforeseen, Work
from mailboat_agent.facts import Look
from mailboat_agent.model_record import ModelRecord
from mailboat_agent.model_return import ModelReturn
from mailboat_agent.probation import Probation
from mailboat_agent.serving.trial import GateFailed
from mailboat_agent.update import moves
from mailboat_agent.update.retry import Backoff, left_as
from mailboat_agent.update.steps import GoBack, Refusal, Stage
from mailboat_schemas.eligibility import Check
from mailboat_schemas.errors import ArtifactMissing, DigestMismatch, MailboatError, ReleaseRejected
from mailboat_schemas.events import EventKind
from mailboat_schemas.reports import ModelPhase

_log = logging.getLogger(__name__)


class ModelResults:
    """`collect` an errand that is over."""

    def __init__(
        self,
        record: ModelRecord,
        *,
        errands: Errands,
        staging: Staging,
        probation: Probation,
        loading: Backoff,
        tries: int,
        way_back: ModelReturn,
    ) -> None:
        """``tries`` is how many attempts a soak has."""
        self._record = record
        self._ledger = record.ledger
        self._errands = errands
        self._staging = staging
        self._probation = probation
        self._loading = loading
        self._tries = tries
        self._way_back = way_back
        self.cannot_fetch = ""  # digest of the release whose last download came to nothing

    def collect(self, work: Work, look: Look) -> None:
        self._errands.running = None
        self._errands.tell_failed_deltas(self._ledger, work, look.now)
        if work.task.cancelled():
            return
        error = work.failure()
        if isinstance(error, DigestMismatch | ArtifactMissing) and work.kind is not Kind.STAGE:
            self._ledger.tell_damage(self._record.model, error.what, look.now)
        self._ledger.tell_tampering(work.digest, error, look.now)
        match work.kind:
            case Kind.STAGE:
                self._staged(work, error, look)
            case Kind.TRIAL:
                self._tried(work, error, look)
            case Kind.SHADOW:
                self._shadowed(work, error, look)
            case Kind.ACTIVATE | Kind.SERVE:
                self._loaded(work, error, look)
            case Kind.GO_BACK:
                if isinstance(work.step, GoBack):
                    self._way_back.arrived(work.step, work.evidence, error, look)
            case Kind.STOP:
                pass

    def _staged(self, work: Work, error: MailboatError | None, look: Look) -> None:
        if error is None:
            self._staging.forget()
            self.cannot_fetch = ""
            return
        # A link that is down says nothing about who has the files: what serves can wait for them.
        if not (isinstance(error, SAYS_WAIT) and self._errands.serves(work.digest)):
            self.cannot_fetch = work.digest
        _log.warning("%s: fetching a release: %s", self._record.model, error)
        self._staging.failed(error, look.monotonic)
        if isinstance(error, ReleaseRejected) and isinstance(work.step, Stage):
            check = Check(error.code, False, error.what)
            refusal = Refusal(candidate=work.step.candidate, check=check)
            self._ledger.tell_refusal(self._record.model, refusal, look.now)

    def _tried(self, work: Work, error: MailboatError | None, look: Look) -> None:
        self._probation.ended_trial(work.task.result() if error is None else None)
        if error is None:
            self._loading.forget()
        elif isinstance(error, GateFailed):
            kind = EventKind.TRIAL_FAILED
            self._way_back.fail(kind, error.reason, error.what, error.evidence, look)
        else:
            # Not the release's doing. The try is given back, so that it is no verdict.
            _log.warning("%s: the trial could not be run: %s", self._record.model, error)
            self._loading.failed(look.monotonic)
            if not isinstance(error, Unforeseen):
                self._record.make(moves.returned_try(self._record.state), look)

    def _shadowed(self, work: Work, error: MailboatError | None, look: Look) -> None:
        if error is None:
            self._loading.forget()
            self._probation.ended_shadow(work.task.result())
        elif isinstance(error, GateFailed):
            kind = EventKind.TRIAL_FAILED  # it never served
            self._way_back.fail(kind, error.reason, error.what, error.evidence, look)
        else:
            # Not the release's doing, mostly; its trial stands, and the shadow begins anew.
            _log.warning("%s: the shadow could not be run: %s", self._record.model, error)
            self._load_failed(error, look)

    def _loaded(self, work: Work, error: MailboatError | None, look: Look) -> None:
        state = self._record.state
        is_active = state.active is not None and state.active.digest == work.digest
        if error is None:
            self._loading.forget()
            if work.kind is Kind.ACTIVATE and is_active and state.phase is ModelPhase.TRIAL:
                evidence = self._probation.evidence
                self._record.make(moves.began_soak(state, tries=self._tries), look, evidence)
                self._probation.forget()
                self._probation.begin(self._errands.posted(work.digest))
            return
        _log.warning("%s: loading a release: %s", self._record.model, error)
        if is_active:
            self._load_failed(error, look)
        else:
            self._loading.failed(look.monotonic)

    def _load_failed(self, error: MailboatError, look: Look) -> None:
        """The active release, to serve or to be mirrored to: again later, or never."""
        self._loading.failed(look.monotonic)
        # decide() sees what is damaged; a worker that did not start says nothing about the release.
        if isinstance(error, SAYS_NOTHING):
            return
        phase, rejected = self._record.state.phase, isinstance(error, ReleaseRejected)
        kind = left_as(phase, attempts=self._loading.attempts, rejected=rejected)
        if kind is not None:
            self._way_back.fail(kind, "load_failed", error.what, {}, look)
