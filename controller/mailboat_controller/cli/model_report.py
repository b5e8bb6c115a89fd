"""What `mailboat model` shows: gates, latencies and comparisons, for people and for programs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailboat_controller.cli import output

if TYPE_CHECKING:
    from mailboat_controller.bundles.gates import Gate
    from mailboat_controller.bundles.smaller import Smaller
    from mailboat_controller.bundles.trying import Outcome

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
_LATENCIES = {"inputs": "INPUTS", "p50": "P50 MS", "p95": "P95 MS", "p99": "P99 MS"}


def say_if(shown: bool) -> Callable[[str], None]:
    """Progress, on standard error."""
    return output.remark if shown else lambda _text: None


def show_trial(
    title: str, gates: "Sequence[Gate]", outcomes: "Sequence[Outcome]", *, as_json: bool
) -> None:
    from mailboat_controller.bundles.gates import latencies

    failures = [outcome for outcome in outcomes if not outcome.passed]
    closed = [gate for gate in gates if gate.passed is False]
    passed = len(outcomes) - len(failures)
    if as_json:
        output.show_json(
            {
                "release": title,
                "passed": not failures and not closed,
                "trials": [outcome.told for outcome in outcomes],
                "gates": [gate.told for gate in gates],
            }
        )
        return
    output.show_rows([gate_row(gate) for gate in gates], _GATES, as_json=False)
    rows = latencies(outcomes)
    if rows:
        print()
        output.show_rows(
            [
                {"inputs": row.label, "p50": ms(row.p50), "p95": ms(row.p95), "p99": ms(row.p99)}
                for row in rows
            ],
            _LATENCIES,
            as_json=False,
        )
    print()
    if more := also_measured(outcomes):
        output.show_fields(more, as_json=False)
        print()
    for outcome in failures[:1]:
        print(f"Failed with {outcome.reason}: {output.plain_text(outcome.what)}")
        for key, value in outcome.evidence.items():
            print(f"  {key}: {output.plain_text(str(value))}")
    print(_verdict(title, passed, len(outcomes), [gate.name for gate in closed]))


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
    shown |= {"runtime_version", "batches", *(f"latency_p{share}_ms" for share in (50, 95, 99))}
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


def write_plot(
    path: Path, title: str, outcomes: "Sequence[Outcome]", limit_ms: float | None
) -> None:
    from mailboat_controller.bundles.gates import latencies
    from mailboat_controller.bundles.plot import latency_plot

    path.write_text(latency_plot(f"Latency of {title}", latencies(outcomes), limit_ms))


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
