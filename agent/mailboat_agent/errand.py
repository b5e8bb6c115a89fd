"""What runs beside a model's loop: one errand at a time, begun here and collected by the loop."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from mailboat_agent.artifacts.metered import MeteredWait
from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.delta.delivery import Tally
from mailboat_agent.delta.telling import tell_failed_deltas
from mailboat_agent.fetching import Progress, Terms
from mailboat_agent.ledger import Ledger
from mailboat_agent.logs.lines import about_release
from mailboat_agent.serving.feedback import Posted
from mailboat_agent.serving.process import ModelAltered, WorkerNotStarted
from mailboat_agent.serving.residency import NoRoom
from mailboat_agent.serving.runtime import ReleaseWithdrawn
from mailboat_agent.trust.manifest import Manifest
from mailboat_agent.update.state import Installed
from mailboat_agent.update.steps import GoBack, RunShadow, Stage, Step
from mailboat_agent.work import Workbench
from mailboat_schemas.deltas import Source
from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.errors import (
    ArtifactMissing,
    DigestMismatch,
    DownloadInterrupted,
    MailboatError,
    ServerUnavailable,
    Transient,
)

# Failures to load that say nothing about the release itself.
SAYS_NOTHING = (
    DigestMismatch
    | ArtifactMissing
    | DiskFailing
    | ModelAltered
    | NoRoom
    | WorkerNotStarted
    | ReleaseWithdrawn
)
# Failures to fetch that say nothing about who has the files.
SAYS_WAIT = DownloadInterrupted | ServerUnavailable | MeteredWait
_log = logging.getLogger(__name__)


class Unforeseen(Transient):
    """A bug, or a machine in trouble. It serves on; a trial's spent try stays spent."""

    code = "E-UNFORESEEN"

    def __init__(self, what: str) -> None:
        super().__init__(what, next_step="report this as a bug, with the agent's log.")


class Kind(StrEnum):
    STAGE = "stage"
    TRIAL = "trial"
    SHADOW = "shadow"
    ACTIVATE = "activate"
    SERVE = "serve"
    STOP = "stop"
    GO_BACK = "go_back"


@dataclass(slots=True)
class Work:
    """An errand. ``digest`` is of the release it is about, or empty."""

    kind: Kind
    digest: str
    step: Step
    task: asyncio.Task[Any]
    evidence: Mapping[str, Any]

    def is_pointless(self, step: Step) -> bool:
        """Whether it can be dropped, when ``step`` is what would be decided now."""
        match self.kind:
            case Kind.STAGE:
                return not (isinstance(step, Stage) and step.candidate.digest == self.digest)
            case Kind.TRIAL:
                return isinstance(step, GoBack) and step.code == "withdrawn"
            case Kind.SHADOW:
                return not isinstance(step, RunShadow)
            case Kind.ACTIVATE | Kind.SERVE | Kind.STOP | Kind.GO_BACK:
                return False

    def failure(self) -> MailboatError | None:
        """What went wrong with one that is done; what nobody foresaw is logged with its trace."""
        error = self.task.exception()
        if error is None or isinstance(error, MailboatError):
            return error
        _log.error("%s failed unexpectedly", self.task.get_name(), exc_info=error)
        return Unforeseen(f"{type(error).__name__}: {error}")


class Errands:
    """Begins them. A release whose document is not at hand cannot be run or loaded."""

    def __init__(
        self, model: str, *, bench: Workbench, manifest: Manifest, wake: Callable[[], None]
    ) -> None:
        self._model = model
        self._bench = bench
        self._manifest = manifest
        self._wake = wake
        self.running: Work | None = None
        self.progress = Progress()  # of the newest download
        self._shadowed = ""  # how far the shadow that runs is
        self._tally: tuple[str, Tally] = ("", Tally())  # of a release that is being fetched

    def stage(
        self, document: ReleaseDocument, step: Stage, *, whole_file_bytes_max: int | None = None
    ) -> None:
        """Args: whole_file_bytes_max: over a metered link, by policy; None: any."""
        digest = step.candidate.digest
        self._manifest.put_back_document(digest)  # no download brings it
        if self._tally[0] != digest:
            self._tally = (digest, Tally())
        self.progress = Progress(tally=self._tally[1])
        terms = replace(
            self._terms(document, is_emergency=step.candidate.is_emergency),
            whole_file_bytes_max=whole_file_bytes_max,
        )
        work = self._bench.stage(document, self.progress, terms)
        self._begin(Kind.STAGE, digest, step, work)

    def _terms(self, document: ReleaseDocument, *, is_emergency: bool) -> Terms:
        """A release does not wait for the link's budget if nothing serves without it, as after a
        withdrawal, if what serves has a lower security version, or if its plan is an emergency."""
        desired, serving = self._manifest.desired, self._bench.serving(self._model)
        runs = None if serving is None else self._manifest.document(serving.digest)
        return Terms(
            offered=self._manifest.offered_deltas(),
            class_is_metered=desired is not None and desired.metered,
            urgent=is_emergency
            or runs is None
            or document.security_version > runs.security_version,
        )

    def tell_failed_deltas(self, ledger: Ledger, work: Work, now: datetime) -> None:
        if isinstance(work.step, Stage):
            tell_failed_deltas(ledger, self._model, work.step.candidate, self.progress.tally, now)

    def delivery(self, digest: str) -> Mapping[str, Any]:
        """Evidence of how this release came, to be told once."""
        (of, tally), self._tally = self._tally, ("", Tally())
        if of != digest:
            tally = Tally()
        imported_bytes = self._bench.imported_bytes(self._manifest.document(digest))
        if imported_bytes:  # not from this process's memory: it may have come before a restart
            tally.arrivals.source_bytes[Source.IMPORT] = imported_bytes
        return tally.evidence()

    def posted(self, digest: str) -> Posted:
        """What the application has said of a release's answers so far."""
        return self._bench.posted(self._model, digest)

    def serves(self, digest: str) -> bool:
        serving = self._bench.serving(self._model)
        return serving is not None and serving.digest == digest

    def document(self, release: Installed | None) -> ReleaseDocument | None:
        return None if release is None else self._manifest.document(release.digest)

    def run_trial(self, release: Installed, document: ReleaseDocument, step: Step) -> None:
        self._begin(Kind.TRIAL, release.digest, step, self._bench.run_trial(document))

    def run_shadow(self, release: Installed, document: ReleaseDocument, step: Step) -> None:
        work = self._bench.run_shadow(document, release.digest, self._tell_shadow)
        self._shadowed = step.because
        self._begin(Kind.SHADOW, release.digest, step, work)

    def _tell_shadow(self, because: str) -> None:
        self._shadowed = because

    @property
    def because(self) -> str:
        """What is to be said of the errand that runs; empty if the step says it all."""
        is_shadow = self.running is not None and self.running.kind is Kind.SHADOW
        return self._shadowed if is_shadow else self._bench.waits_because(self._model)

    def load(self, kind: Kind, release: Installed | None, step: Step) -> bool:
        """Begin to serve a release; False if its document is not at hand."""
        document = self.document(release)
        if release is None or document is None:
            return False
        work = self._bench.serve(document, release.digest, can_wait=kind is Kind.ACTIVATE)
        self._begin(kind, release.digest, step, work)
        return True

    def stop(self, step: Step) -> bool:
        """Begin to stop what serves; False if nothing does."""
        if self._bench.serving(self._model) is None:
            return False
        self._begin(Kind.STOP, "", step, self._bench.stop(self._model))
        return True

    def go_back(self, step: GoBack, evidence: Mapping[str, Any], *, is_stopped: bool) -> bool:
        """Begin to serve the predecessor, or nothing; False if it is so already.

        Args:
            is_stopped: policy stops the predecessor, so what serves ends and nothing begins.
        """
        serving, document = self._bench.serving(self._model), self.document(step.to)
        if step.to is not None and document is not None and not is_stopped:
            if serving is not None and serving.digest == step.to.digest:
                return False
            work = self._bench.serve(document, step.to.digest)
            self._begin(Kind.GO_BACK, step.to.digest, step, work, evidence)
            return True
        if serving is None:
            return False
        self._begin(Kind.GO_BACK, "", step, self._bench.stop(self._model), evidence)
        return True

    def _begin(
        self,
        kind: Kind,
        digest: str,
        step: Step,
        work: Coroutine[Any, Any, Any],
        evidence: Mapping[str, Any] | None = None,
    ) -> None:
        with about_release(digest):  # what the task logs, its threads too
            task = asyncio.create_task(work, name=f"{kind} of {self._model}")
        task.add_done_callback(lambda _: self._wake())
        self.running = Work(kind, digest, step, task, evidence or {})
