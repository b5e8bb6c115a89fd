"""From what was measured to what is declared: with headroom, and in steps. Pure.

A measurement is never the same twice and a document must be, so every limit goes up to the next
step of a coarse scale (what is asked for at least, down), and one that an earlier build declared
stays while it still fits.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mailboat_controller.bundles.npz import Array

MEMORY_HEADROOM = 1.25
MEMORY_STEP_BYTES = 32 << 20
LATENCY_HEADROOM = 4.0  # a device is busier than the machine that this was measured on
LATENCY_MS_MIN = 10.0
# Of a quick model one pause of a busy machine is most of the time of all runs: it is asked for no
# more than a batch in LATENCY_MS_MIN.
THROUGHPUT_HEADROOM = 4.0
COLD_START_HEADROOM = 4.0
COLD_START_MS_MIN = 5_000.0
DEADLINE_HEADROOM = 10.0
DEADLINE_SECONDS_MIN = 60.0
DEADLINE_SECONDS_MAX = 3_600.0
MS_MAX = 600_000.0  # what a document may declare
# Kernels differ by some 1e-6 of a value between processors; a wrong model by 1e-2 and more.
TOLERANCE_RELATIVE = 1e-3
TOLERANCE_MIN = 1e-5
# Integer kernels round and saturate differently from processor to processor.
INT8_FACTOR = 10.0
OPSET_OF_RUNTIME_MIN = 21
RUNTIME_MIN = (
    "1.18"  # the oldest that Mailboat runs on; it knows opset 21. Source: its release notes
)
KEPT_WITHIN = 4.0  # an earlier declaration so many times above the need is given up


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Of one trial with open gates."""

    peak_memory_bytes: int
    latency_p95_ms: float
    cold_start_ms: float
    trial_seconds: float
    batches: Mapping[int, float] = field(default_factory=dict)  # p95 in ms, by size
    throughputs: Mapping[int, float] = field(default_factory=dict)  # rows a second, by size


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    peak_memory_bytes: int
    latency_p95_ms_max: float
    cold_start_ms_max: float
    deadline_seconds: float
    batches: Mapping[int, float] = field(default_factory=dict)  # largest p95 in ms, by size
    throughputs: Mapping[int, float] = field(default_factory=dict)  # fewest rows a second, by size


def declare(measured: Measured, earlier: Declared | None = None) -> Declared:
    """What a release that was measured so should promise."""
    memory = MEMORY_HEADROOM * measured.peak_memory_bytes
    cold_start = max(COLD_START_MS_MIN, COLD_START_HEADROOM * measured.cold_start_ms)
    deadline = max(DEADLINE_SECONDS_MIN, DEADLINE_HEADROOM * measured.trial_seconds)
    fresh = Declared(
        peak_memory_bytes=math.ceil(memory / MEMORY_STEP_BYTES) * MEMORY_STEP_BYTES,
        latency_p95_ms_max=_latency(measured.latency_p95_ms),
        cold_start_ms_max=min(MS_MAX, step_above(cold_start)),
        deadline_seconds=min(DEADLINE_SECONDS_MAX, step_above(deadline)),
        batches={size: _latency(p95) for size, p95 in measured.batches.items()},
        throughputs={
            size: _throughput(size, per_second) for size, per_second in measured.throughputs.items()
        },
    )
    if earlier is None:
        return fresh
    return Declared(
        peak_memory_bytes=int(
            _kept(earlier.peak_memory_bytes, fresh.peak_memory_bytes, measured.peak_memory_bytes)
        ),
        latency_p95_ms_max=_kept(
            earlier.latency_p95_ms_max, fresh.latency_p95_ms_max, measured.latency_p95_ms
        ),
        cold_start_ms_max=_kept(
            earlier.cold_start_ms_max, fresh.cold_start_ms_max, measured.cold_start_ms
        ),
        deadline_seconds=_kept(
            earlier.deadline_seconds, fresh.deadline_seconds, measured.trial_seconds
        ),
        batches={
            size: _kept(earlier.batches.get(size, 0.0), fresh.batches[size], p95)
            for size, p95 in measured.batches.items()
        },
        throughputs={
            size: _kept_at_least(
                earlier.throughputs.get(size, 0.0), fresh.throughputs[size], per_second
            )
            for size, per_second in measured.throughputs.items()
        },
    )


def _latency(p95_ms: float) -> float:
    return min(MS_MAX, step_above(max(LATENCY_MS_MIN, LATENCY_HEADROOM * p95_ms)))


def _throughput(size: int, per_second: float) -> float:
    calm = size * 1000 / LATENCY_MS_MIN
    return step_below(min(calm, per_second / THROUGHPUT_HEADROOM))


def _kept(earlier: float, fresh: float, measured: float) -> float:
    return earlier if measured <= earlier <= KEPT_WITHIN * fresh else fresh


def _kept_at_least(earlier: float, fresh: float, measured: float) -> float:
    return earlier if fresh / KEPT_WITHIN <= earlier <= measured else fresh


def step_above(value: float) -> float:
    """The next of …, 1, 2, 5, 10, 20, 50, …, at or above a positive number."""
    power = 10.0 ** math.floor(math.log10(value))
    for step in (1, 2, 5, 10):
        # 1e-9: 10 ** -5 is a little more than 1e-05.
        if step * power >= value * (1 - 1e-9):
            return float(f"{step * power:.6g}")
    return float(f"{10 * power:.6g}")


def step_below(value: float) -> float:
    """The last of …, 1, 2, 5, 10, 20, 50, …, at or below a positive number."""
    return float(f"{1 / step_above(1 / value):.6g}")


def tolerances(outputs: Mapping[str, Array], factor: float = 1.0) -> dict[str, float]:
    """Largest allowed difference by output: a thousandth of its size; none for whole numbers."""
    return {name: _tolerance(array, factor) for name, array in sorted(outputs.items())}


def _tolerance(array: Array, factor: float) -> float:
    if array.dtype.kind != "f" or not array.size:
        return 0.0
    finite = np.abs(array[np.isfinite(array)].astype(np.float64))
    if not finite.size or not finite.max():
        return TOLERANCE_MIN
    return max(TOLERANCE_MIN, step_above(factor * TOLERANCE_RELATIVE * float(finite.max())))


def runtime_range(opset: int | None, tried_with: str) -> str:
    """Versions of onnxruntime that can run it.

    An opset that is newer than what the oldest runtime knows asks for the version that has proven
    to run it: this one.
    """
    if opset is not None and opset <= OPSET_OF_RUNTIME_MIN:
        return f">={RUNTIME_MIN}"
    return f">={'.'.join(tried_with.split('.')[:2])}"
