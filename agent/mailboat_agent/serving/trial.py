"""The trial: may this release be loaded on this device at all?

A fresh worker under a hard memory limit: cold start, every golden sample, latency, peak memory; and
a second fresh worker that answers one sample again, because a release must survive a restart. Any
gate that cannot be evaluated is closed. All of it within the release's own deadline.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mailboat_agent.serving.golden import Difference, Golden, GoldenUnreadable, compare, read_golden
from mailboat_agent.serving.interface import check_request, differences
from mailboat_agent.serving.launch import AS_CHILDREN, Launch
from mailboat_agent.serving.process import (
    Description,
    InferenceFailed,
    Worker,
    WorkerDied,
    WorkerHung,
)
from mailboat_agent.serving.requirements import RuntimeUnsupported, worker_options
from mailboat_agent.serving.tensors import BadTensors
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.release import Variant
from mailboat_schemas.errors import TrialFailed

TIMED_INFERENCES_MIN = 30  # below that a p95 is one or two values
EVIDENCE_ITEMS_MAX = 16
EVIDENCE_CHARS_MAX = 1000  # of one text


class GateFailed(TrialFailed):
    """A gate of the trial closed. ``evidence`` is small, and plain enough for any encoding."""

    def __init__(self, reason: str, what: str, evidence: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason, what)
        self.evidence = dict(evidence or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialReport:
    cold_start_ms: float  # process start to the first answer
    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    inferences: int
    samples: int
    largest_difference: float
    peak_memory_bytes: int
    provider: str
    runtime_version: str


def run_trial(
    *,
    model_fd: int,
    golden_fd: int | None,
    interface: Interface,
    variant: Variant,
    memory_limit_bytes: int,
    launch: Launch = AS_CHILDREN,
) -> TrialReport:
    """Try a release whose files have been verified; both descriptors stay the caller's.

    ``memory_limit_bytes`` is what the hardware class allows; the lower of it and the declared
    ``peak_memory`` counts. Blocks for up to ``variant.health.deadline_seconds``.

    Raises:
        GateFailed: final for this release here. ``reason`` is one of load_failed,
            interface_mismatch, golden_mismatch, no_golden_output, latency_exceeded,
            memory_exceeded, cold_start_exceeded, crashed, hung, runtime_unsupported, external_data.
        WorkerNotStarted, ModelAltered: the device, not the release; try again.
    """
    golden = _read_golden(golden_fd, interface)
    trial = _Trial(
        model_fd=model_fd,
        launch=launch,
        golden=golden,
        interface=interface,
        variant=variant,
        memory_bytes=min(variant.peak_memory, memory_limit_bytes),
        deadline=time.monotonic() + variant.health.deadline_seconds,
    )
    return trial.run()


def _read_golden(golden_fd: int | None, interface: Interface) -> Golden:
    if golden_fd is None:
        raise GateFailed("no_golden_output", "The release has no golden samples to answer.")
    try:
        golden = read_golden(golden_fd)
    except GoldenUnreadable as error:
        raise GateFailed("no_golden_output", error.what) from error
    missing = {output.name for output in interface.outputs} - golden.output_names
    if missing:
        raise GateFailed(
            "no_golden_output",
            f"The golden samples say nothing about output {min(missing)!r}.",
            {"outputs": sorted(missing)[:EVIDENCE_ITEMS_MAX]},
        )
    return golden


@dataclass(slots=True, kw_only=True)
class _Trial:
    model_fd: int
    launch: Launch
    golden: Golden
    interface: Interface
    variant: Variant
    memory_bytes: int
    deadline: float  # time.monotonic
    runtime_version: str = ""
    provider: str = ""
    stage: str = ""

    def run(self) -> TrialReport:
        with self._fresh_worker("cold start") as (worker, started):
            self._infer(worker, 0)
            cold_start_ms = (time.monotonic() - started) * 1000
            self._check_cold_start(cold_start_ms)
            self.stage = "golden samples"
            worst, latencies = self._answer_all(worker)
            self.stage = "latency"
            latencies += self._time_more(worker, TIMED_INFERENCES_MIN - len(latencies))
            peak_memory_bytes = self._check_memory(worker)
        p50, p95, p99 = (_quantile(latencies, q) for q in (0.50, 0.95, 0.99))
        self._check_latency(p50, p95)
        with self._fresh_worker("clean restart") as (worker, _):
            _refuse_difference(self._infer_and_compare(worker, 0)[0])
            peak_memory_bytes = max(peak_memory_bytes, self._check_memory(worker))
        return TrialReport(
            cold_start_ms=cold_start_ms,
            latency_p50_ms=p50,
            latency_p95_ms=p95,
            latency_p99_ms=p99,
            inferences=len(latencies),
            samples=len(self.golden),
            largest_difference=worst.largest or 0.0,
            peak_memory_bytes=peak_memory_bytes,
            provider=self.provider,
            runtime_version=self.runtime_version,
        )

    # --- a worker, and what its failures mean ----------------------------------------------------

    @contextmanager
    def _fresh_worker(self, stage: str) -> Iterator[tuple[Worker, float]]:
        self.stage = stage
        started = time.monotonic()
        # Not the release's fault if this fails: WorkerNotStarted.
        worker = Worker.start(self.model_fd, launch=self.launch)
        try:
            self._load(worker)
            yield worker, started
            worker.close()
        except WorkerDied as error:
            raise self._crashed(worker, error) from error
        except WorkerHung as error:
            raise self._out_of_time() from error
        except InferenceFailed as error:
            raise self._refused(worker, error) from error
        finally:
            worker.kill()

    def _load(self, worker: Worker) -> None:
        self.runtime_version = worker.facts.version
        try:
            options = worker_options(self.variant, worker.facts, self.memory_bytes)
        except RuntimeUnsupported as error:
            raise GateFailed(
                "runtime_unsupported",
                error.what,
                {"runtime": worker.facts.version, "providers": list(worker.facts.providers)},
            ) from error
        self.provider = options.providers[0]
        session = worker.load(options, deadline_seconds=self._remaining())
        self._check_interface(session)

    def _check_interface(self, session: Description) -> None:
        if found := differences(self.interface, session):
            raise GateFailed(
                "interface_mismatch",
                f"The model is not what its document declares: {found[0]}.",
                {"differences": list(found[:EVIDENCE_ITEMS_MAX])},
            )
        try:
            check_request(self.interface, session, self.golden.inputs[0], ())
        except BadTensors as error:
            raise GateFailed(
                "interface_mismatch", f"The golden samples do not fit the model: {error.what}"
            ) from error

    def _crashed(self, worker: Worker, error: WorkerDied) -> GateFailed:
        return GateFailed(
            "crashed",
            f"The model's process ended during {self.stage}: {error.reason}.",
            {
                "stage": self.stage,
                "ended": error.reason,
                "peak_memory_bytes": worker.peak_memory_bytes(),
                "last_words": error.last_words[-EVIDENCE_CHARS_MAX:],
            },
        )

    def _refused(self, worker: Worker, error: InferenceFailed) -> GateFailed:
        evidence = {
            "stage": self.stage,
            "message": error.message[:EVIDENCE_CHARS_MAX],
            "peak_memory_bytes": worker.peak_memory_bytes(),
        }
        if error.kind == "out_of_memory":
            return GateFailed(
                "memory_exceeded",
                f"The model needs more than the {self.memory_bytes} bytes it may have.",
                evidence | {"limit_bytes": self.memory_bytes},
            )
        if error.kind == "external_data":
            return GateFailed("external_data", f"It is refused: {error.message}.", evidence)
        if error.kind == "load_failed":
            return GateFailed("load_failed", f"onnxruntime refuses it: {error.message}", evidence)
        return GateFailed(
            "golden_mismatch", f"A golden sample fails with an error: {error.message}", evidence
        )

    def _remaining(self) -> float:
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise self._out_of_time()
        return remaining

    def _out_of_time(self) -> GateFailed:
        seconds = self.variant.health.deadline_seconds
        return GateFailed(
            "hung",
            f"The trial was not over after {seconds:.3g} s; it stood at {self.stage}.",
            {"stage": self.stage, "deadline_seconds": seconds},
        )

    # --- the gates -------------------------------------------------------------------------------

    def _infer(self, worker: Worker, sample: int) -> tuple[float, Any]:
        started = time.monotonic()
        inference = worker.infer(self.golden.inputs[sample], deadline_seconds=self._remaining())
        return (time.monotonic() - started) * 1000, inference.outputs

    def _infer_and_compare(self, worker: Worker, sample: int) -> tuple[Difference, float]:
        latency_ms, outputs = self._infer(worker, sample)
        found = compare(sample, outputs, self.golden.outputs[sample], self.variant.health)
        return max(found, key=lambda difference: difference.excess), latency_ms

    def _answer_all(self, worker: Worker) -> tuple[Difference, list[float]]:
        answers = [self._infer_and_compare(worker, sample) for sample in range(len(self.golden))]
        failed = sum(not difference.within for difference, _ in answers)
        worst = max((difference for difference, _ in answers), key=lambda d: d.excess)
        _refuse_difference(worst, failed=failed, samples=len(answers))
        return worst, [latency_ms for _, latency_ms in answers]

    def _time_more(self, worker: Worker, count: int) -> list[float]:
        return [self._infer(worker, i % len(self.golden))[0] for i in range(count)]

    def _check_cold_start(self, cold_start_ms: float) -> None:
        allowed = self.variant.health.cold_start_ms_max
        if cold_start_ms > allowed:
            raise GateFailed(
                "cold_start_exceeded",
                f"The first answer came after {cold_start_ms:.0f} ms, {allowed:.0f} are allowed.",
                {"cold_start_ms": cold_start_ms, "cold_start_ms_max": allowed},
            )

    def _check_latency(self, p50: float, p95: float) -> None:
        allowed = self.variant.health.latency_p95_ms_max
        if allowed is not None and p95 > allowed:
            raise GateFailed(
                "latency_exceeded",
                f"p95 is {p95:.1f} ms, {allowed:.1f} are allowed.",
                {"latency_p50_ms": p50, "latency_p95_ms": p95, "latency_p95_ms_max": allowed},
            )

    def _check_memory(self, worker: Worker) -> int:
        peak = worker.peak_memory_bytes()
        if peak > self.memory_bytes:
            raise GateFailed(
                "memory_exceeded",
                f"The model's process reached {peak} bytes, {self.memory_bytes} are allowed.",
                {"peak_memory_bytes": peak, "limit_bytes": self.memory_bytes},
            )
        return peak


def _refuse_difference(worst: Difference, *, failed: int = 1, samples: int = 1) -> None:
    if worst.within:
        return
    how = worst.problem or f"off by {worst.largest:.6g}, {worst.tolerance:.6g} is allowed"
    raise GateFailed(
        "golden_mismatch",
        f"{failed} of {samples} golden samples fail; the worst is sample {worst.sample}, "
        f"output {worst.tensor!r}: {how}.",
        {
            "tensor": worst.tensor,
            "sample": worst.sample,
            "largest_difference": worst.largest,
            "tolerance": worst.tolerance,
            "problem": worst.problem,
            "samples_failed": failed,
            "samples": samples,
        },
    )


def _quantile(values: list[float], quantile: float) -> float:
    """Nearest rank: a value that was measured, never one between two."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]
