"""The trial: may this release be loaded on this device at all?

A fresh worker under a hard memory limit: cold start, every golden sample, latency and throughput of
each declared batch size, memory; a second one that answers one sample again, because a release must
survive a restart; one for the release's own check; and one of the release that serves, where they
are compared. Any gate that cannot be evaluated is closed. All within the release's own deadline.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from mailboat_agent.serving.batched_trial import try_batches
from mailboat_agent.serving.bundle import NO_BUNDLE, Bundle
from mailboat_agent.serving.custom_check import judge_check, question
from mailboat_agent.serving.gate_failed import EVIDENCE_ITEMS_MAX, GateFailed
from mailboat_agent.serving.golden import Golden, GoldenUnreadable, read_golden
from mailboat_agent.serving.golden_verdict import GoldenVerdict
from mailboat_agent.serving.kept_answers import KeptAnswers
from mailboat_agent.serving.launch import AS_CHILDREN, Launch
from mailboat_agent.serving.provider_choice import Loadable, Loaded
from mailboat_agent.serving.relative import Comparison, Measured, compared, refuse_worse
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.tensors import Tensor
from mailboat_agent.serving.timing import (
    ROUNDS,
    TIMED_INFERENCES_MIN,
    Timing,
    refuse_leak,
    refuse_low_throughput,
    refuse_slow,
    round_inferences,
    timing,
)
from mailboat_agent.serving.trial_worker import TrialWorkers
from mailboat_schemas.class_budgets import NO_BUDGETS, ClassBudgets
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.release import Variant
from mailboat_schemas.documents.trial_gates import CheckGate
from mailboat_schemas.trial_bounds import (
    latency_p95_ms_max,
    memory_bytes_max,
    throughput_per_second_min,
)

__all__ = ["TIMED_INFERENCES_MIN", "GateFailed", "TrialReport", "run_trial"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialReport:
    cold_start_ms: float  # process start to the first answer
    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    throughput_per_second: float  # of single requests, one after the other
    inferences: int
    samples: int
    largest_difference: float
    peak_memory_bytes: int
    provider: str
    runtime_version: str
    batches: tuple[Timing, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)  # by output
    check: dict[str, float] | None = None  # what the release's own check has measured
    relative: Comparison | None = None  # None also where nothing serves
    passed_over: tuple[str, ...] = ()  # providers that did not come up, and why


def run_trial(
    *,
    model_fd: int,
    golden_fd: int | None,
    interface: Interface,
    variant: Variant,
    memory_limit_bytes: int,
    launch: Launch = AS_CHILDREN,
    bundle: Bundle = NO_BUNDLE,
    serving: ServedRelease | None = None,
    budgets: ClassBudgets = NO_BUDGETS,
) -> TrialReport:
    """Try a release whose files have been verified; both descriptors stay the caller's.

    ``memory_limit_bytes`` is what the device gives; the lowest of it, of what the class allows in
    ``budgets`` and of the declared ``peak_memory`` counts, and likewise of each bound of single
    requests. ``serving`` is what relative gates compare with. Blocks for up to
    ``variant.health.deadline_seconds``.

    Raises:
        GateFailed: final for this release here. ``reason`` is one of those in `docs/trial.md`.
        WorkerNotStarted, ModelAltered: the device, not the release; try again.
    """
    golden = _read_golden(golden_fd, interface)
    release = Loadable(
        model_fd=model_fd,
        interface=interface,
        variant=variant,
        memory_bytes=memory_bytes_max(variant, memory_limit_bytes, budgets),
        bundle=bundle,
    )
    seconds = variant.health.deadline_seconds
    workers = TrialWorkers(release, golden.inputs[0], launch, seconds=seconds)
    return _Trial(workers, golden, launch, serving, budgets).run()


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


class _Trial:
    def __init__(
        self,
        workers: TrialWorkers,
        golden: Golden,
        launch: Launch,
        serving: ServedRelease | None,
        budgets: ClassBudgets,
    ) -> None:
        self._budgets = budgets
        self._workers = workers
        self._golden = golden
        self._launch = launch
        self._serving = serving
        self._health = workers.release.variant.health
        self._bundle = workers.release.bundle
        self._memory_bytes = workers.release.memory_bytes

    def run(self) -> TrialReport:
        verdict = GoldenVerdict(self._golden, self._health)
        with self._workers.fresh("cold start") as (loaded, started):
            self._workers.infer(loaded, self._golden.inputs[0])
            cold_start_ms = (time.monotonic() - started) * 1000
            self._refuse_cold(cold_start_ms)
            self._workers.stage = "golden samples"
            answers = self._answer_all(loaded, verdict)
            self._workers.stage = "latency"
            measured = self._time(self._workers, loaded)
            batches = try_batches(self._workers, loaded, self._golden)
            peak_memory_bytes = self._refuse_large(loaded)
        for each in (measured, *batches):
            whose = (self._health, each.batch_size, self._budgets)
            refuse_slow(each, latency_p95_ms_max(*whose))
            refuse_low_throughput(each, throughput_per_second_min(*whose))
        peak_memory_bytes = max(peak_memory_bytes, self._restart())
        mine = Measured(timing=measured, peak_memory_bytes=peak_memory_bytes, answers=answers)
        report = TrialReport(
            cold_start_ms=cold_start_ms,
            latency_p50_ms=measured.latency_p50_ms,
            latency_p95_ms=measured.latency_p95_ms,
            latency_p99_ms=measured.latency_p99_ms,
            throughput_per_second=measured.throughput_per_second,
            inferences=measured.inferences,
            samples=len(self._golden),
            largest_difference=verdict.largest_difference,
            peak_memory_bytes=peak_memory_bytes,
            provider=self._workers.provider,
            runtime_version=self._workers.runtime_version,
            batches=batches,
            metrics=verdict.metrics,
            relative=self._compare(mine),
            passed_over=self._workers.passed_over,
        )
        return dataclasses.replace(report, check=self._check(report, answers))

    # --- the stages ------------------------------------------------------------------------------

    def _answer_all(self, loaded: Loaded, verdict: GoldenVerdict) -> list[Sequence[Tensor]]:
        """The answers, as far as a later stage looks at them."""
        wanted = self._bundle.check is not None or self._health.relative is not None
        kept = KeptAnswers()
        for sample, inputs in enumerate(self._golden.inputs):
            _, outputs = self._workers.infer(loaded, inputs)
            verdict.add(sample, outputs)
            if wanted:
                kept.keep(outputs)
        verdict.refuse()
        return kept.answers

    def _time(self, workers: TrialWorkers, loaded: Loaded) -> Timing:
        """In rounds of the same inputs, between which its memory is looked at."""
        latencies: list[float] = []
        held: list[int] = []
        first, _ = workers.infer(loaded, self._golden.inputs[0])
        count = round_inferences(first)
        for _ in range(ROUNDS):
            for i in range(count):
                latency_ms, _ = workers.infer(loaded, self._golden.inputs[i % len(self._golden)])
                latencies.append(latency_ms)
            held.append(loaded.worker.memory_bytes())
        refuse_leak(held, count)
        return timing(1, latencies)

    def _restart(self) -> int:
        verdict = GoldenVerdict(self._golden, self._health)
        with self._workers.fresh("clean restart") as (loaded, _):
            _, outputs = self._workers.infer(loaded, self._golden.inputs[0])
            verdict.add(0, outputs)
            if not self._health.metrics:  # a metric speaks of all samples, not of one
                verdict.refuse()
            return self._refuse_large(loaded)

    def _compare(self, mine: Measured) -> Comparison | None:
        gates, serving = self._health.relative, self._serving
        if gates is None or serving is None:
            return None
        other = Loadable(
            model_fd=serving.model_fd,
            interface=serving.interface,
            variant=serving.variant,
            memory_bytes=serving.memory_bytes,
            bundle=serving.bundle,
        )
        seconds = self._workers.remaining()
        workers = TrialWorkers(other, self._golden.inputs[0], self._launch, seconds=seconds)
        self._workers.stage = "comparison"
        try:
            with workers.fresh("comparison") as (loaded, _):
                kept = KeptAnswers()
                for inputs in self._golden.inputs:
                    kept.keep(workers.infer(loaded, inputs)[1])
                measured = self._time(workers, loaded)
                peak = loaded.worker.peak_memory_bytes()
        except GateFailed as error:
            raise GateFailed(
                "serving_unmeasured",
                f"The release that serves could not be compared with: {error.what}",
                {"reason": error.reason, **error.evidence},
            ) from error
        theirs = Measured(timing=measured, peak_memory_bytes=peak, answers=kept.answers)
        found = compared(mine, theirs, self._health)
        refuse_worse(found, gates)
        return found

    def _check(
        self, report: TrialReport, answers: Sequence[Sequence[Tensor]]
    ) -> dict[str, float] | None:
        if self._bundle.check is None:
            return None
        gate = self._health.check or CheckGate()
        asked = question(self._golden, answers, dataclasses.asdict(report))
        with self._workers.fresh("its own check", with_check=True) as (loaded, _):
            seconds = min(gate.seconds_max, self._workers.remaining())
            answer = loaded.worker.check(asked, deadline_seconds=seconds)
            self._refuse_large(loaded)
        return judge_check(answer, gate)

    # --- the gates -------------------------------------------------------------------------------

    def _refuse_cold(self, cold_start_ms: float) -> None:
        allowed = self._health.cold_start_ms_max
        if cold_start_ms > allowed:
            raise GateFailed(
                "cold_start_exceeded",
                f"The first answer came after {cold_start_ms:.0f} ms, {allowed:.0f} are allowed.",
                {"cold_start_ms": cold_start_ms, "cold_start_ms_max": allowed},
            )

    def _refuse_large(self, loaded: Loaded) -> int:
        peak = loaded.worker.peak_memory_bytes()
        if peak > self._memory_bytes:
            raise GateFailed(
                "memory_exceeded",
                f"The model's process reached {peak} bytes, {self._memory_bytes} are allowed.",
                {"peak_memory_bytes": peak, "limit_bytes": self._memory_bytes},
            )
        return peak
