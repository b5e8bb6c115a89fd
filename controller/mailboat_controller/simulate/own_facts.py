"""What a simulated device knows of itself, for a decision."""

from typing import TYPE_CHECKING

from mailboat_controller.simulate.releases import MODEL, PROVIDERS, RUNTIME_VERSION
from mailboat_schemas.class_budgets import NO_BUDGETS, ClassBudgets
from mailboat_schemas.eligibility import DeviceFacts

if TYPE_CHECKING:
    from mailboat_controller.simulate.device import SimulatedDevice

MEMORY_BUDGET_BYTES = 1 << 30
DISK_FREE_BYTES = 1 << 34


def budgets_of(device: "SimulatedDevice") -> ClassBudgets:
    """What its class allows, by the newest manifest that it took."""
    return NO_BUDGETS if device.manifest is None else device.manifest.budgets


def facts_of(device: "SimulatedDevice", before: DeviceFacts | None) -> DeviceFacts:
    """``before`` again, unless something that it says has changed."""
    state, stopped = device.state, device.rules.staleness.stopped
    serving, budgets = state.serving, budgets_of(device)
    if stopped and serving is not None and serving.digest == stopped:
        serving = None  # as in `Device.for_decision`: it waits for no window to serve again
    switched_at = None if serving is None else state.switched_at
    fresh, trusted = device.trust_fresh, device.clock_trusted
    if (
        before is not None
        and before.held_files is device.disk.held
        and before.failed is state.failed
        and before.trust_fresh is fresh
        and before.clock_trusted is trusted
        and before.security_versions[MODEL] == state.security_version
        and before.rules is device.rules.rules
        and before.config is device.rules.choice
        and before.policy_version == device.rules.policy_version
        and before.policy_ranges is device.rules.policy_ranges
        and before.class_budgets is budgets
        and before.switched_at.get(MODEL) == switched_at
    ):
        return before
    return DeviceFacts(
        device=device.device,
        hardware_class=device.hardware_class,
        enrolment_number=device.enrolment_number,
        labels=device.labels,
        runtime_version=RUNTIME_VERSION,
        providers=PROVIDERS,
        memory_budget_bytes=MEMORY_BUDGET_BYTES,
        disk_free_bytes=DISK_FREE_BYTES,
        held_files=device.disk.held,
        failed=state.failed,
        security_versions={MODEL: state.security_version},
        trust_fresh=fresh,
        clock_trusted=trusted,
        config=device.rules.choice,
        policy_version=device.rules.policy_version,
        policy_ranges=device.rules.policy_ranges,
        rules=device.rules.rules,
        class_budgets=budgets,
        switched_at={} if switched_at is None else {MODEL: switched_at},
    )
