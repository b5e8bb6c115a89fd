"""Latencies and throughput of a trial: in rounds, so that memory that grows shows between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from mailboat_agent.serving.gate_failed import GateFailed

ROUNDS = 4
ROUND_INFERENCES_MIN, ROUND_INFERENCES_MAX = 8, 64
ROUND_MS = 100  # a fast model answers more often in it, a slow one at least the minimum
TIMED_INFERENCES_MIN = ROUNDS * ROUND_INFERENCES_MIN  # below 30 a p95 is one or two values
BATCH_WARM_UP_RUNS = 3  # that do not count: the first of a size sets up its memory
BATCH_RUNS_MIN, BATCH_RUNS_MAX = 20, 256  # of each batch size
BATCH_MS = 200  # a quick model answers more often in it: a rate over two milliseconds is none
# A round that leaves less than this for each inference may be an allocator that settles.
LEAK_BYTES_PER_INFERENCE = 32 << 10


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds, of ``inferences`` runs with ``batch_size`` rows each.

    ``throughput_per_second`` counts rows over the time of all runs, the slow ones too, as a caller
    has them who sends the next when the last is answered: what one worker gets through.
    """

    batch_size: int
    inferences: int
    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    throughput_per_second: float


def timing(batch_size: int, latencies_ms: Sequence[float], rows: int | None = None) -> Timing:
    """``rows`` that each run has answered, where golden samples do not add up to the size."""
    p50, p95, p99 = (_quantile(latencies_ms, q) for q in (0.50, 0.95, 0.99))
    answered = len(latencies_ms) * (batch_size if rows is None else rows)
    seconds = max(sum(latencies_ms) / 1000, 1e-9)
    return Timing(batch_size, len(latencies_ms), p50, p95, p99, answered / seconds)


def round_inferences(latency_ms: float) -> int:
    """How many of this length make a round."""
    count = int(ROUND_MS / latency_ms) if latency_ms > 0 else ROUND_INFERENCES_MAX
    return min(ROUND_INFERENCES_MAX, max(ROUND_INFERENCES_MIN, count))


def batch_runs(latency_ms: float) -> int:
    """How many batches of this length are timed."""
    count = int(BATCH_MS / latency_ms) if latency_ms > 0 else BATCH_RUNS_MAX
    return min(BATCH_RUNS_MAX, max(BATCH_RUNS_MIN, count))


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


def refuse_low_throughput(measured: Timing, asked_per_second: float | None) -> None:
    """
    Raises:
        GateFailed: what is exactly at its bound passes.
    """
    if asked_per_second is None or measured.throughput_per_second >= asked_per_second:
        return
    where = "one by one" if measured.batch_size == 1 else f"in batches of {measured.batch_size}"
    raise GateFailed(
        "throughput_too_low",
        f"It answers {measured.throughput_per_second:.1f} a second {where}, "
        f"{asked_per_second:.1f} are asked for.",
        {
            "throughput_per_second": measured.throughput_per_second,
            "throughput_per_second_min": asked_per_second,
            "latency_p50_ms": measured.latency_p50_ms,
            "batch_size": measured.batch_size,
            "inferences": measured.inferences,
        },
    )


def _quantile(values: Sequence[float], quantile: float) -> float:
    """Nearest rank: a value that was measured, never one between two."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]
