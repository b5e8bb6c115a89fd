"""Latencies of a trial: measured in rounds, so that memory that grows shows between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from mailboat_agent.serving.gate_failed import GateFailed

ROUNDS = 4
ROUND_INFERENCES_MIN, ROUND_INFERENCES_MAX = 8, 64
ROUND_MS = 100  # a fast model answers more often in it, a slow one at least the minimum
TIMED_INFERENCES_MIN = ROUNDS * ROUND_INFERENCES_MIN  # below 30 a p95 is one or two values
BATCH_RUNS = 20  # of each batch size
# A round that leaves less than this for each inference may be an allocator that settles.
LEAK_BYTES_PER_INFERENCE = 32 << 10


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds, of ``inferences`` runs with ``batch_size`` rows each."""

    batch_size: int
    inferences: int
    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float


def timing(batch_size: int, latencies_ms: Sequence[float]) -> Timing:
    p50, p95, p99 = (_quantile(latencies_ms, q) for q in (0.50, 0.95, 0.99))
    return Timing(batch_size, len(latencies_ms), p50, p95, p99)


def round_inferences(latency_ms: float) -> int:
    """How many of this length make a round."""
    count = int(ROUND_MS / latency_ms) if latency_ms > 0 else ROUND_INFERENCES_MAX
    return min(ROUND_INFERENCES_MAX, max(ROUND_INFERENCES_MIN, count))


def refuse_leak(held_bytes: Sequence[int], inferences: int) -> None:
    """``held_bytes`` after each round of ``inferences``, all of them with the same inputs.

    Raises:
        GateFailed: every round after the first has left more behind.
    """
    growth = [later - earlier for earlier, later in pairwise(held_bytes)]
    if not growth or min(growth) < inferences * LEAK_BYTES_PER_INFERENCE:
        return
    each = sum(growth) // (len(growth) * inferences)
    raise GateFailed(
        "memory_leak",
        f"Each inference leaves about {each} bytes behind: the same inputs, and "
        f"{sum(growth)} bytes more after {len(growth) * inferences} of them.",
        {"bytes_per_inference": each, "held_bytes": list(held_bytes), "inferences": inferences},
    )


def refuse_slow(measured: Timing, allowed_ms: float | None) -> None:
    """
    Raises:
        GateFailed
    """
    if allowed_ms is None or measured.latency_p95_ms <= allowed_ms:
        return
    where = "" if measured.batch_size == 1 else f" of a batch of {measured.batch_size}"
    raise GateFailed(
        "latency_exceeded",
        f"p95{where} is {measured.latency_p95_ms:.1f} ms, {allowed_ms:.1f} are allowed.",
        {
            "latency_p50_ms": measured.latency_p50_ms,
            "latency_p95_ms": measured.latency_p95_ms,
            "latency_p95_ms_max": allowed_ms,
            "batch_size": measured.batch_size,
        },
    )


def _quantile(values: Sequence[float], quantile: float) -> float:
    """Nearest rank: a value that was measured, never one between two."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]
