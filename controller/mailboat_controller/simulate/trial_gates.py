"""What a trial makes of a release: by the production bounds, of figures that are made up."""

from mailboat_controller.simulate.own_facts import MEMORY_BUDGET_BYTES
from mailboat_controller.simulate.releases import Fault, SimulatedRelease
from mailboat_schemas.class_budgets import ClassBudgets
from mailboat_schemas.trial_bounds import (
    latency_p95_ms_max,
    memory_bytes_max,
    throughput_per_second_min,
)


def trial_failure(
    release: SimulatedRelease, hardware_class: str, device: str, budgets: ClassBudgets
) -> str:
    """The code that it failed with, in the order of the agent's trial; empty: it passed.

    Its process reaches the peak that it declares, and answers one request after the other.
    """
    if release.fault_on(device) is Fault.TRIAL:
        return "output_mismatch"
    variant = release.document.variant_for(hardware_class)
    if variant is None:
        return ""
    if variant.peak_memory > memory_bytes_max(variant, MEMORY_BUDGET_BYTES, budgets):
        return "memory_exceeded"
    slowest = latency_p95_ms_max(variant.health, 1, budgets)
    if slowest is not None and release.latency_p95_ms > slowest:
        return "latency_exceeded"
    least = throughput_per_second_min(variant.health, 1, budgets)
    if least is not None and release.throughput_per_second < least:
        return "throughput_too_low"
    return ""
