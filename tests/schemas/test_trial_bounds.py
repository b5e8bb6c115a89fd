"""A trial is held to the tightest of what the release, its device and its class say."""

import pytest

from mailboat_schemas.class_budgets import NO_BUDGETS, ClassBudgets
from mailboat_schemas.documents.health import Health
from mailboat_schemas.documents.trial_gates import BatchGate
from mailboat_schemas.trial_bounds import (
    latency_p95_ms_max,
    memory_bytes_max,
    throughput_per_second_min,
)
from trust_fleet import CLASS, document

HEALTH = Health(
    latency_p95_ms_max=20.0,
    batches=(
        BatchGate(size=1, latency_p95_ms_max=15.0, throughput_per_second_min=30.0),
        BatchGate(size=4, latency_p95_ms_max=50.0, throughput_per_second_min=60.0),
    ),
)
TIGHT = ClassBudgets(latency_p95_ms_max=10.0, throughput_per_second_min=40.0)
LOOSE = ClassBudgets(latency_p95_ms_max=30.0, throughput_per_second_min=20.0)


@pytest.mark.parametrize(
    ("health", "size", "budgets", "slowest", "least"),
    [
        (HEALTH, 1, NO_BUDGETS, 15.0, 30.0),
        (HEALTH, 1, TIGHT, 10.0, 40.0),
        (HEALTH, 1, LOOSE, 15.0, 30.0),
        (HEALTH, 4, TIGHT, 50.0, 60.0),
        (HEALTH, 2, TIGHT, None, None),
        (Health(), 1, TIGHT, 10.0, 40.0),
        (Health(), 1, NO_BUDGETS, None, None),
    ],
    ids=[
        "the release alone",
        "a tighter class",
        "a looser class",
        "a class says nothing of batches",
        "nobody says anything of this size",
        "the class alone",
        "nobody",
    ],
)
def test_the_tightest_bound_of_time_counts(
    health: Health, size: int, budgets: ClassBudgets, slowest: float | None, least: float | None
) -> None:
    assert latency_p95_ms_max(health, size, budgets) == slowest
    assert throughput_per_second_min(health, size, budgets) == least


def test_the_tightest_bound_of_memory_counts() -> None:
    variant = document("1.0.0").variants[0]
    assert CLASS in variant.hardware_classes
    peak = variant.peak_memory

    assert memory_bytes_max(variant, peak + 2, NO_BUDGETS) == peak
    assert memory_bytes_max(variant, peak - 1, ClassBudgets(memory_bytes=peak)) == peak - 1
    assert memory_bytes_max(variant, peak, ClassBudgets(memory_bytes=peak - 2)) == peak - 2
