"""What `mailboat model` shows: gates, latencies and comparisons, for people and for programs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailboat_controller.cli import output

if TYPE_CHECKING:
    from mailboat_controller.bundles.gates import Gate
    from mailboat_controller.bundles.smaller import Smaller
    from mailboat_controller.bundles.trying import Outcome
    from mailboat_controller.releases.build import Build
    from mailboat_schemas.documents.release import Variant

MIB = 1 << 20
_GATES = {
    "gate": "GATE",
    "declared": "DECLARED",
    "measured": "MEASURED",
    "margin": "LEFT",
    "passed": "PASSED",
}
_COSTS = {"what": "", "original": "ORIGINAL", "smaller": "SMALLER", "ratio": "RATIO"}
_OUTPUTS = {
    "output": "OUTPUT",
    "max": "LARGEST ERROR",
    "mean": "MEAN ERROR",
    "scale": "LARGEST VALUE",
    "cosine": "COSINE",
    "top_1": "TOP-1 AGREEMENT",
}
_LATENCIES = {
    "inputs": "INPUTS",
    "p50": "P50 MS",
    "p95": "P95 MS",
    "p99": "P99 MS",
    "rate": "PER S",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One or more trials of one build, and what came of them."""

    build: "Build"
    hardware_class: str
    gates: "Sequence[Gate]"
    outcomes: "Sequence[Outcome]"

    @property
    def title(self) -> str:
        document = self.build.document
        return f"{document.model} {document.version} for {self.hardware_class}"

    @property
    def variant(self) -> "Variant":
        variant = self.build.document.variant_for(self.hardware_class)
        assert variant is not None  # noqa: S101 - it was tried
        return variant

    @property
    def limit_ms(self) -> float | None:
        return self.variant.health.latency_p95_ms_max

    @property
    def passed(self) -> bool:
        shut = any(gate.passed is False for gate in self.gates)
        return not shut and all(outcome.passed for outcome in self.outcomes)


def say_if(shown: bool) -> Callable[[str], None]:
    """Progress, on standard error."""
    return output.remark if shown else lambda _text: None


def told(trial: Trial) -> dict[str, Any]:
    """All of it, for programs: what is declared, and every trial's outcome and evidence."""
    from mailboat_controller.bundles.latencies import latencies

    document, variant = trial.build.document, trial.variant
    return {
        "release": trial.title,
        "model": document.model,
        "version": document.version,
        "digest": trial.build.digest,
        "hardware_class": trial.hardware_class,
        "passed": trial.passed,
        "interface": document.interface.model_dump(mode="json"),
        "files": [file.model_dump(mode="json") for file in variant.files],
        "declared": {
            "runtime": variant.runtime.model_dump(mode="json"),
            "peak_memory_bytes": variant.peak_memory,
            "health": variant.health.model_dump(mode="json"),
        },
        "trials": [outcome.told for outcome in trial.outcomes],
        "gates": [gate.told for gate in trial.gates],
        "latencies": [latency.told for latency in latencies(trial.outcomes)],
    }


def show_trial(trial: Trial, *, as_json: bool) -> None:
    from mailboat_controller.bundles.gates import figure
    from mailboat_controller.bundles.latencies import latencies
    from mailboat_controller.bundles.plot import text_plot

    gates, outcomes = trial.gates, trial.outcomes
    failures = [outcome for outcome in outcomes if not outcome.passed]
    closed = [gate for gate in gates if gate.passed is False]
    passed = len(outcomes) - len(failures)
    if as_json:
        output.show_json(told(trial))
        return
    output.show_rows([gate_row(gate) for gate in gates], _GATES, as_json=False)
    rows = latencies(outcomes)
    if rows:
        print()
        output.show_rows(
            [
                {"inputs": row.label, "p50": ms(row.p50), "p95": ms(row.p95), "p99": ms(row.p99)}
                | {"rate": None if row.per_second is None else figure(row.per_second)}
                for row in rows
            ],
            _LATENCIES,
            as_json=False,
        )
        print()
        print(text_plot(rows, trial.limit_ms))
    print()
    if more := also_measured(outcomes):
        output.show_fields(more, as_json=False)
        print()
    for outcome in failures[:1]:
        print(f"Failed with {outcome.reason}: {output.plain_text(outcome.what)}")
        for key, value in outcome.evidence.items():
            print(f"  {key}: {output.plain_text(str(value))}")
    print(_verdict(trial.title, passed, len(outcomes), [gate.name for gate in closed]))


def also_measured(outcomes: "Sequence[Outcome]") -> dict[str, Any]:
    """What the device reports of a trial beyond the gates and latencies, of the first."""
    shown = {
        "cold_start_ms",
        "inferences",
        "samples",
        "largest_difference",
        "peak_memory_bytes",
        "provider",
    }
    shown |= {"runtime_version", "batches", "throughput_per_second"}
    shown |= {*(f"latency_p{share}_ms" for share in (50, 95, 99))}
    report = outcomes[0].report if outcomes else {}
    return {key: value for key, value in report.items() if key not in shown and value}


def _verdict(title: str, passed: int, trials: int, closed: Sequence[str]) -> str:
    counted = "passes its trial" if trials == 1 else f"{passed} of {trials} trials passed"
    if passed == 0:
        return f"{title}: refused. A device has one trial, and would not load it."
    if passed < trials:
        return f"{title}: {counted}. A device has one, so this is a release for luck."
    if closed:
        return f"{title}: {counted}, and the class does not allow it: {', '.join(closed)}."
    return f"{title}: {counted}."


def gate_row(gate: "Gate") -> dict[str, Any]:
    row = gate.told
    row["margin"] = None if gate.margin is None else left(gate.margin)
    row["passed"] = {True: "yes", False: "NO", None: "–"}[gate.passed]
    row["declared"] = gate.declared or None
    return row


def left(margin: float) -> str:
    """Rounded, and never to a whole that is not one."""
    return ">99%" if 0.99 < margin < 1 else f"{margin:.0%}"


def ms(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def write_plot(path: Path, trial: Trial) -> None:
    from mailboat_controller.bundles.latencies import latencies
    from mailboat_controller.bundles.plot import latency_plot

    title = f"Latency of {trial.title}"
    path.write_text(latency_plot(title, latencies(trial.outcomes), trial.limit_ms))


def show_smaller(smaller: "Smaller") -> None:
    before, after = smaller.original, smaller.cost
    rows = [
        (
            "size",
            f"{before.size_bytes:,} bytes",
            f"{after.size_bytes:,} bytes",
            after.size_bytes / before.size_bytes,
        ),
        (
            "latency p50",
            f"{before.latency_p50_ms:.3g} ms",
            f"{after.latency_p50_ms:.3g} ms",
            after.latency_p50_ms / before.latency_p50_ms,
        ),
        (
            "latency p95",
            f"{before.latency_p95_ms:.3g} ms",
            f"{after.latency_p95_ms:.3g} ms",
            after.latency_p95_ms / before.latency_p95_ms,
        ),
        (
            "peak memory",
            f"{before.peak_memory_bytes / MIB:.1f} MiB",
            f"{after.peak_memory_bytes / MIB:.1f} MiB",
            after.peak_memory_bytes / before.peak_memory_bytes,
        ),
    ]
    output.show_rows(
        [
            {"what": what, "original": old, "smaller": new, "ratio": f"{ratio:.2f}"}
            for what, old, new, ratio in rows
        ],
        _COSTS,
        as_json=False,
    )
    print()
    output.show_rows(
        [
            {
                "output": each.name,
                "max": f"{each.max_error:.3g}",
                "mean": f"{each.mean_error:.3g}",
                "scale": f"{each.scale:.3g}",
                "cosine": f"{each.cosine:.6f}",
                "top_1": None if each.top_1 is None else f"{each.top_1:.1%}",
            }
            for each in smaller.outputs
        ],
        _OUTPUTS,
        as_json=False,
    )
    print()
    print(
        f"{smaller.to.value} ({smaller.method}), {smaller.samples} samples: "
        f"{smaller.drop:.2%} of the worst output is lost."
    )
