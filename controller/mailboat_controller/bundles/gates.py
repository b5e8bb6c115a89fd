"""A trial as a table: each gate with what is declared, what was measured, what is left. Pure.

The trial ends with the first gate that closes; what stands behind that one was not reached, unless
a second trial with open gates has measured it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mailboat_controller.bundles.latencies import latencies
from mailboat_controller.bundles.trying import Outcome
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.release import FileRole, Variant

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """``passed`` is None where the trial did not get so far. ``margin`` is the part of what is
    declared that is left: 0.25 for a quarter, below zero if exceeded."""

    name: str
    declared: str
    measured: str
    margin: float | None = None
    passed: bool | None

    @property
    def told(self) -> dict[str, Any]:
        return {
            "gate": self.name,
            "declared": self.declared,
            "measured": self.measured,
            "margin": None if self.margin is None else round(self.margin, 4),
            "passed": self.passed,
        }


# In the order of the trial, with the reasons that close each.
_ORDER: tuple[tuple[str, frozenset[str]], ...] = (
    ("golden samples are there", frozenset({"no_golden_output"})),
    ("runtime", frozenset({"runtime_unsupported"})),
    ("loads", frozenset({"load_failed", "external_data"})),
    ("interface", frozenset({"interface_mismatch"})),
    ("cold start", frozenset({"cold_start_exceeded"})),
    ("golden samples", frozenset({"golden_mismatch"})),
    ("keeps its memory", frozenset({"memory_leak"})),
    ("batches", frozenset({"batch_unsupported"})),
    ("peak memory", frozenset({"memory_exceeded"})),
    ("latency p95", frozenset({"latency_exceeded"})),
    ("clean restart", frozenset()),
    (
        "beside what serves",
        frozenset(
            {
                "serving_unmeasured",
                "slower_than_serving",
                "throughput_below_serving",
                "larger_than_serving",
                "disagrees_with_serving",
            }
        ),
    ),
    ("its own check", frozenset({"check_failed", "check_broken"})),
)
_OF_A_SIZE = "latency or throughput of a batch size"  # whose rows stand behind the others
_OF_A_SIZE_REASONS = frozenset({"latency_exceeded", "throughput_too_low"})
# Where a process that crashed or hung stood.
_STAGES = {
    "cold start": "cold start",
    "golden samples": "golden samples",
    "latency": "latency p95",
    "clean restart": "clean restart",
    "comparison": "beside what serves",
    "its own check": "its own check",
}


def gates(
    interface: Interface, variant: Variant, budget_bytes: int, outcomes: Sequence[Outcome]
) -> tuple[Gate, ...]:
    """The worst of all trials, gate by gate."""
    failed = next((outcome for outcome in outcomes if not outcome.passed), None)
    closed = None if failed is None else _closed_gate(failed)
    rows = [
        _golden(interface, variant, outcomes, _passed(name, closed))
        if name == "golden samples"
        else _gate(name, variant, budget_bytes, outcomes, _passed(name, closed))
        for name, _ in _ORDER
        if name == closed or _asked_for(name, variant)
    ]
    rows += _batch_rows(variant, outcomes)
    if failed is not None and closed is None:  # a gate that this table does not know
        rows.append(Gate(name=failed.reason, declared="", measured=failed.what, passed=False))
    return tuple(rows)


def _asked_for(name: str, variant: Variant) -> bool:
    """Whether the release declares this gate, or every release has it."""
    match name:
        case "batches":
            return bool(variant.health.batches)
        case "beside what serves":
            return variant.health.relative is not None
        case "its own check":
            return variant.file_of_role(FileRole.CHECK) is not None
    return True


def _batch_rows(variant: Variant, outcomes: Sequence[Outcome]) -> Iterator[Gate]:
    for gate in variant.health.batches:
        found = [row.p95 for row in latencies(outcomes) if row.batch_size == gate.size]
        worst = max(found, default=None)
        allowed = gate.latency_p95_ms_max
        passed = None if worst is None else allowed is None or worst <= allowed
        if gate.size > 1 or allowed is not None:
            yield _limited(f"latency p95, batch {gate.size}", allowed, worst, "ms", passed)
        if gate.throughput_per_second_min is not None:
            rates = [row.per_second for row in latencies(outcomes) if row.batch_size == gate.size]
            least = min((rate for rate in rates if rate is not None), default=None)
            yield _asked_for_at_least(
                f"throughput, batch {gate.size}", gate.throughput_per_second_min, least
            )


def _closed_gate(outcome: Outcome) -> str | None:
    of_one = outcome.reason == "latency_exceeded" and outcome.evidence.get("batch_size", 1) == 1
    if outcome.reason in _OF_A_SIZE_REASONS and not of_one:
        return _OF_A_SIZE
    for name, reasons in _ORDER:
        if outcome.reason in reasons:
            return name
    return _STAGES.get(str(outcome.evidence.get("stage", "")))


def _passed(name: str, closed: str | None) -> bool | None:
    order = [each for each, _ in _ORDER]
    if closed == _OF_A_SIZE:
        return True if order.index(name) <= order.index("latency p95") else None
    if closed is None or order.index(name) < order.index(closed):
        return True
    return False if name == closed else None


def _gate(
    name: str,
    variant: Variant,
    budget_bytes: int,
    outcomes: Sequence[Outcome],
    passed: bool | None,
) -> Gate:
    health = variant.health
    match name:
        case "runtime":
            providers = ", ".join(variant.runtime.providers)
            declared = f"onnxruntime {variant.runtime.version}, {providers}"
            return Gate(name=name, declared=declared, measured=_runtime(outcomes), passed=passed)
        case "cold start":
            worst = _worst(outcomes, "cold_start_ms")
            return _limited(name, health.cold_start_ms_max, worst, "ms", passed)
        case "beside what serves" if passed:
            told = [o.report["relative"] for o in outcomes if o.report.get("relative")]
            words = "yes" if told else "nothing serves here to compare with"
            return Gate(name=name, declared="", measured=words, passed=passed)
        case "peak memory":
            limit = min(variant.peak_memory, budget_bytes)
            worst = _worst(outcomes, "peak_memory_bytes")
            megabytes = None if worst is None else worst / MIB
            return _limited(name, limit / MIB, megabytes, "MiB", passed)
        case "latency p95":
            worst = _worst(outcomes, "latency_p95_ms")
            return _limited(name, health.latency_p95_ms_max, worst, "ms", passed)
    return Gate(name=name, declared="", measured=_words(passed), passed=passed)


def _limited(
    name: str, declared: float | None, measured: float | None, unit: str, passed: bool | None
) -> Gate:
    margin = None
    if declared is not None and measured is not None:
        margin = 1 - measured / declared
        if passed is None and margin < 0:
            passed = False  # measured with the gate open, and it would have closed
    return Gate(
        name=name,
        declared="none" if declared is None else f"≤ {figure(declared)} {unit}",
        measured=_words(passed) if measured is None else f"{figure(measured)} {unit}",
        margin=margin,
        passed=passed,
    )


def _asked_for_at_least(name: str, asked: float, measured: float | None) -> Gate:
    """Inferences a second. What is left is how much of the measured could go."""
    return Gate(
        name=name,
        declared=f"≥ {figure(asked)} /s",
        measured=_words(None) if measured is None else f"{figure(measured)} /s",
        margin=None if not measured else 1 - asked / measured,
        passed=None if measured is None else measured >= asked,
    )


def _golden(
    interface: Interface, variant: Variant, outcomes: Sequence[Outcome], passed: bool | None
) -> Gate:
    health = variant.health
    allowed = [health.tolerances.get(each.name, health.tolerance) for each in interface.outputs]
    smallest, largest = min(allowed), max(allowed)
    declared = f"off by ≤ {smallest:g}" + (f" to {largest:g}" if largest != smallest else "")
    failed = next((o for o in outcomes if o.reason == "golden_mismatch"), None)
    if failed is not None:
        return Gate(name="golden samples", declared=declared, measured=failed.what, passed=False)
    declared += "".join(f", {name} by {gate.metric.value}" for name, gate in health.metrics.items())
    worst = _worst(outcomes, "largest_difference")
    samples = _worst(outcomes, "samples")
    measured = (
        _words(passed) if worst is None else f"{samples:.0f} samples, off by {worst:.3g} at most"
    )
    return Gate(name="golden samples", declared=declared, measured=measured, passed=passed)


def _runtime(outcomes: Sequence[Outcome]) -> str:
    for outcome in outcomes:
        if outcome.report:
            return f"{outcome.report['runtime_version']}, {outcome.report['provider']}"
        if "runtime" in outcome.evidence:
            return f"{outcome.evidence['runtime']}, {', '.join(outcome.evidence['providers'])}"
    return ""


def _worst(outcomes: Sequence[Outcome], key: str) -> float | None:
    found = [outcome.report[key] for outcome in outcomes if key in outcome.report]
    found += [
        outcome.evidence[key]
        for outcome in outcomes
        if key in outcome.evidence and outcome.evidence.get("batch_size", 1) == 1
    ]
    return max(found, default=None)


def _words(passed: bool | None) -> str:
    return {True: "yes", False: "no", None: "not reached"}[passed]


def figure(value: float) -> str:
    """Three significant digits, and never an exponent."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3g}"


# --- what the class asks for ---------------------------------------------------------------------


def class_gates(
    variant: Variant, described: HardwareClass, outcomes: Sequence[Outcome], arch: str
) -> Iterator[Gate]:
    """What eligibility and the class's own budgets say, before and beside the trial."""
    spec = described.spec
    yield _budget("declared memory", spec.memory_budget, variant.peak_memory)
    yield _budget("disk", spec.disk_budget, variant.size_bytes)
    largest = max(file.length for file in variant.files)
    yield _budget("largest file", spec.model_bytes_max, largest)
    provided = [name for name in variant.runtime.providers if name in spec.runtime.providers]
    yield Gate(
        name="class's providers",
        declared=", ".join(spec.runtime.providers),
        measured=", ".join(variant.runtime.providers),
        passed=bool(provided),
    )
    if spec.latency_p95_ms_max is not None:
        worst = _worst(outcomes, "latency_p95_ms")
        passed = None if worst is None else worst <= spec.latency_p95_ms_max
        yield _limited("class's latency p95", spec.latency_p95_ms_max, worst, "ms", passed)
    if spec.throughput_per_second_min is not None:
        rates = [row.per_second for row in latencies(outcomes) if row.batch_size == 1]
        least = min((rate for rate in rates if rate is not None), default=None)
        yield _asked_for_at_least("class's throughput", spec.throughput_per_second_min, least)
    if spec.arch != arch:  # nothing fails by it; times of another processor promise little
        yield Gate(name="processor", declared=spec.arch, measured=arch, passed=None)


def _budget(name: str, allowed_bytes: int, needed_bytes: int) -> Gate:
    passed = needed_bytes <= allowed_bytes
    return _limited(name, allowed_bytes / MIB, needed_bytes / MIB, "MiB", passed)
