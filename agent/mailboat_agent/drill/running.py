"""One drill, in a thread of its own: verify, try, make ready to take over, and let go.

Nothing here changes what serves. The drilled release is in no lane, so no request can reach it; its
workers take only memory that nobody has, and give that back as soon as somebody asks for it.
"""

import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from mailboat_agent.drill.launch import DrillLaunch, make_lowest
from mailboat_agent.serving.gate_failed import GateFailed
from mailboat_agent.serving.loading import LoadedWorker, load_worker
from mailboat_agent.serving.process import InferenceFailed, WorkerDied, WorkerHung
from mailboat_agent.serving.requirements import RuntimeUnsupported
from mailboat_agent.serving.residency import NoRoom
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.trial import TrialReport, run_trial
from mailboat_agent.work import Workbench
from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.drills import ANSWERED, RETURN_MS, DrillOutcome
from mailboat_schemas.errors import ArtifactMissing, DigestMismatch, MailboatError, Transient
from mailboat_schemas.sealing import SealedDamaged

DOCUMENT_BYTES_MAX = 4 << 20  # far above what a manifest has room for
# Gates that go by the clock. A drill has the lowest priority, so while others are at work they say
# more of those than of the release.
TIMED_GATES = frozenset({"latency_exceeded", "throughput_too_low", "cold_start_exceeded", "hung"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came of a drill that came to an end. ``error`` is what it met, if anything."""

    outcome: DrillOutcome
    code: str = ""
    because: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    error: MailboatError | None = None


class DrillRun:
    """`run` blocks; `give_up` and `end` from any thread end its workers, and what `run` returns
    then says nothing of the release."""

    def __init__(self, document: ReleaseDocument, digest: str, bench: Workbench) -> None:
        self.digest = digest
        self._document = document
        self._bench = bench
        self._runtime = bench.runtime
        launch = bench.runtime.launch
        self._launch = DrillLaunch(launch.worker_socket, launch.user)
        self._give_up_because = ""

    @property
    def version(self) -> str:
        return self._document.version

    @property
    def given_up(self) -> bool:
        return self._launch.given_up

    @property
    def given_up_because(self) -> str:
        return self._give_up_because

    def give_up(self, because: str) -> None:
        """Returns at once: the event loop asks for it, and so does who needs the memory."""
        self._give_up_because = self._give_up_because or because
        self._launch.give_up_soon()

    def end(self, because: str) -> None:
        """The same, and its workers are gone when this returns."""
        self._give_up_because = self._give_up_because or because
        self._launch.give_up()

    def run(self) -> Finding:
        """Never raises what a release or a device in trouble does."""
        began, answered = time.monotonic(), self._answered()
        evidence: dict[str, Any] = {}
        try:
            self._prove(evidence)
            finding = Finding(outcome=DrillOutcome.PASSED)
        except MailboatError as error:
            finding = self._judged(error, self._answered() - answered)
        evidence[ANSWERED] = max(0, self._answered() - answered)
        evidence["seconds"] = round(time.monotonic() - began, 3)
        return Finding(
            outcome=finding.outcome,
            code=finding.code,
            because=finding.because,
            evidence={**evidence, **finding.evidence},
            error=finding.error,
        )

    def _prove(self, evidence: dict[str, Any]) -> None:
        version = self._document.version
        began = time.monotonic()
        with ExitStack() as opened:
            evidence["files_verified"], evidence["bytes_verified"] = self._verify()
            opening = time.monotonic()
            release, golden_fd = self._bench.open_release(self._document, self.digest, opened)
            open_ms = _ms_since(opening)
            evidence["verify_ms"] = _ms_since(began)
            what = f"a rollback drill of {release.model} {version}"
            claimed = self._runtime.free_room(
                what, release.memory_bytes, lambda: self.give_up("another model needs its memory")
            )
            with claimed:
                report = run_trial(
                    model_fd=release.model_fd,
                    golden_fd=golden_fd,
                    interface=release.interface,
                    variant=release.variant,
                    memory_limit_bytes=release.memory_bytes,
                    launch=self._launch,
                    bundle=release.bundle,
                )
                evidence |= _measured(report)
                load_ms = self._make_ready(release)
            evidence |= {"open_ms": open_ms, "load_ms": load_ms}
            evidence[RETURN_MS] = round(open_ms + load_ms, 1)

    def _verify(self) -> tuple[int, int]:
        """Every byte of it on this disk, against its digest; how many files, and bytes.

        Raises:
            DigestMismatch: it was set aside. ArtifactMissing, DiskFailing
        """
        variant = self._bench.variant_of(self._document)
        self._bench.store.read_verified(self.digest, DOCUMENT_BYTES_MAX)
        for digest in variant.artifacts:
            os.close(self._bench.store.open_verified(digest))
        return 1 + len(variant.artifacts), sum(variant.artifacts.values())

    def _make_ready(self, release: ServedRelease) -> float:
        """As the switch would have it: loaded, held against its document, warm. Milliseconds."""
        began = time.monotonic()
        ready: LoadedWorker = load_worker(release, release.model_fd, self._launch)
        try:
            make_lowest(ready.worker.pid)
            return _ms_since(began)
        finally:
            ready.worker.close()

    # --- what it means ---------------------------------------------------------------------------

    @staticmethod
    def _judged(error: MailboatError, answered: int) -> Finding:
        match error:
            case GateFailed():
                if error.reason in TIMED_GATES and answered > 0:
                    return _outdone(error, answered, error.evidence)
                return _failed(error.reason, error.what, error, error.evidence)
            case NoRoom():
                return _skipped("memory", error.what, error)
            case DigestMismatch() | ArtifactMissing():
                return _failed("storage_damaged", error.what, error)
            case SealedDamaged():
                return _failed(error.code, error.what, error)
            case WorkerDied():
                because = f"Its process ended as it was made ready: {error.reason}."
                return _failed("crashed", because, error)
            case WorkerHung():  # as it was made ready; in the trial it is a gate
                if answered > 0:
                    return _outdone(error, answered)
                return _failed("hung", error.what, error)
            case InferenceFailed() | RuntimeUnsupported():
                return _failed("load_failed", error.what, error)
            case Transient():  # the device, not the release
                return _skipped("device", error.what, error)
        return _failed(error.code, error.what, error)

    def _answered(self) -> int:
        found = (self._runtime.snapshot(model) for model in self._runtime.models())
        return sum(stats.requests_ok for stats in found if stats is not None)


def _failed(
    code: str, because: str, error: MailboatError, evidence: Mapping[str, Any] | None = None
) -> Finding:
    return Finding(
        outcome=DrillOutcome.FAILED,
        code=code,
        because=because,
        evidence=evidence or {},
        error=error,
    )


def _outdone(
    error: MailboatError, answered: int, evidence: Mapping[str, Any] | None = None
) -> Finding:
    because = f"{error.what} Meanwhile {answered} requests were answered, which come first, so it "
    return _skipped("processor_busy", f"{because}says nothing of the release.", error, evidence)


def _skipped(
    code: str, because: str, error: MailboatError, evidence: Mapping[str, Any] | None = None
) -> Finding:
    return Finding(
        outcome=DrillOutcome.SKIPPED,
        code=code,
        because=because,
        evidence=evidence or {},
        error=error,
    )


def _measured(report: TrialReport) -> dict[str, Any]:
    return {
        "samples": report.samples,
        "largest_difference": report.largest_difference,
        "cold_start_ms": round(report.cold_start_ms, 1),
        "latency_p50_ms": round(report.latency_p50_ms, 3),
        "latency_p95_ms": round(report.latency_p95_ms, 3),
        "peak_memory_bytes": report.peak_memory_bytes,
        "provider": report.provider,
        "runtime": report.runtime_version,
    }


def _ms_since(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 1)
