"""Latencies and throughput of trials, by trial and batch size. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mailboat_controller.bundles.trying import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds and inferences a second, of one batch size in one trial."""

    label: str
    batch_size: int
    p50: float
    p95: float
    p99: float
    per_second: float | None = None  # rows answered, one batch after the other

    @property
    def told(self) -> dict[str, Any]:
        quantiles = {"p50_ms": self.p50, "p95_ms": self.p95, "p99_ms": self.p99}
        named = {"inputs": self.label, "batch_size": self.batch_size} | quantiles
        return named | {"throughput_per_second": self.per_second}


def latencies(outcomes: Sequence[Outcome]) -> tuple[Latency, ...]:
    """By trial and batch size, as far as they were measured."""
    several = len(outcomes) > 1
    found: list[Latency] = []
    for number, outcome in enumerate(outcomes, start=1):
        if "latency_p50_ms" not in outcome.report:
            continue
        prefix = f"trial {number}, " if several else ""
        found.append(_latency(f"{prefix}as sampled", 1, outcome.report))
        for batch in outcome.report.get("batches") or ():
            size = int(batch["batch_size"])
            found.append(_latency(f"{prefix}batch {size}", size, batch))
    return tuple(found)


def _latency(label: str, size: int, figures: Mapping[str, Any]) -> Latency:
    return Latency(
        label=label,
        batch_size=size,
        p50=figures["latency_p50_ms"],
        p95=figures["latency_p95_ms"],
        p99=figures["latency_p99_ms"],
        per_second=figures.get("throughput_per_second"),
    )
