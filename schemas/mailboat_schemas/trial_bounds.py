"""Which bounds a trial is held to: the tightest of what the release, its device and the device's
class say. Pure.
"""

from mailboat_schemas.class_budgets import ClassBudgets
from mailboat_schemas.documents.health import Health
from mailboat_schemas.documents.release import Variant


def memory_bytes_max(variant: Variant, own_bytes: int, budgets: ClassBudgets) -> int:
    """Of its process at its peak. ``own_bytes`` is what the device gives."""
    found: int = min(variant.peak_memory, own_bytes)
    return found if budgets.memory_bytes is None else min(found, budgets.memory_bytes)


def latency_p95_ms_max(health: Health, batch_size: int, budgets: ClassBudgets) -> float | None:
    """Of requests of this size; None: no bound. The class says one for single requests alone."""
    declared = {gate.size: gate.latency_p95_ms_max for gate in health.batches}.get(batch_size)
    if batch_size != 1:
        return declared
    bounds = (health.latency_p95_ms_max, declared, budgets.latency_p95_ms_max)
    return min((each for each in bounds if each is not None), default=None)


def throughput_per_second_min(
    health: Health, batch_size: int, budgets: ClassBudgets
) -> float | None:
    """In inferences a second; None: no bound. The class says one for single requests alone."""
    declared = {gate.size: gate.throughput_per_second_min for gate in health.batches}
    of_class = budgets.throughput_per_second_min if batch_size == 1 else None
    bounds = (declared.get(batch_size), of_class)
    return max((each for each in bounds if each is not None), default=None)
