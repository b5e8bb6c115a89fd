"""A candidate against the release that serves now: both measured in one trial on one device."""

from collections.abc import Sequence
from dataclasses import dataclass

from mailboat_agent.serving.gate_failed import GateFailed
from mailboat_agent.serving.golden import Golden
from mailboat_agent.serving.golden_verdict import GoldenVerdict
from mailboat_agent.serving.tensors import Tensor
from mailboat_agent.serving.timing import Timing
from mailboat_schemas.documents.health import Health
from mailboat_schemas.documents.trial_gates import RelativeGates


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One release on the golden inputs of the candidate."""

    timing: Timing
    peak_memory_bytes: int
    answers: Sequence[Sequence[Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The candidate against the release that serves; ratios below 1 speak for the candidate,
    but for the one of throughput, which is that of single requests."""

    latency_p95_ratio: float
    throughput_ratio: float
    peak_memory_ratio: float
    agreement: float  # share of golden inputs that both answer alike


def compared(candidate: Measured, serving: Measured, health: Health) -> Comparison:
    pairs = list(zip(candidate.answers, serving.answers, strict=True))
    alike = sum(_alike(given, other, health) for given, other in pairs)
    return Comparison(
        latency_p95_ratio=candidate.timing.latency_p95_ms / serving.timing.latency_p95_ms,
        throughput_ratio=candidate.timing.throughput_per_second
        / serving.timing.throughput_per_second,
        peak_memory_ratio=candidate.peak_memory_bytes / max(1, serving.peak_memory_bytes),
        agreement=alike / len(pairs),
    )


def _alike(given: Sequence[Tensor], other: Sequence[Tensor], health: Health) -> bool:
    """By the same tolerances and metrics as golden samples; the serving answer stands for them."""
    verdict = GoldenVerdict(Golden(inputs=((),), outputs=(tuple(other),)), health)
    verdict.add(0, given)
    try:
        verdict.refuse()
    except GateFailed:
        return False
    return True


def refuse_worse(found: Comparison, gates: RelativeGates) -> None:
    """
    Raises:
        GateFailed: what is exactly at its bound passes.
    """
    evidence = {
        "latency_p95_ratio": found.latency_p95_ratio,
        "throughput_ratio": found.throughput_ratio,
        "peak_memory_ratio": found.peak_memory_ratio,
        "agreement": found.agreement,
    }
    slower, larger = gates.latency_p95_ratio_max, gates.peak_memory_ratio_max
    if slower is not None and found.latency_p95_ratio > slower:
        raise GateFailed(
            "slower_than_serving",
            f"Its p95 is {found.latency_p95_ratio:.2f} times that of the release that serves, "
            f"{slower:.2f} is allowed.",
            evidence,
        )
    fewer = gates.throughput_ratio_min
    if fewer is not None and found.throughput_ratio < fewer:
        raise GateFailed(
            "throughput_below_serving",
            f"It answers {found.throughput_ratio:.2f} times as many a second as the release that "
            f"serves, {fewer:.2f} is asked for.",
            evidence,
        )
    if larger is not None and found.peak_memory_ratio > larger:
        raise GateFailed(
            "larger_than_serving",
            f"Its peak memory is {found.peak_memory_ratio:.2f} times that of the release that "
            f"serves, {larger:.2f} is allowed.",
            evidence,
        )
    if gates.agreement_min is not None and found.agreement < gates.agreement_min:
        raise GateFailed(
            "disagrees_with_serving",
            f"It answers {found.agreement:.1%} of the golden inputs as the release that serves "
            f"does, {gates.agreement_min:.1%} is asked for.",
            evidence,
        )
