"""Looks at what devices make of the budgets of their class, as their manifest tells them.

Works out by itself what is over them: of the tighter of a device's own and its class's.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from tests.simulation.violation import Violation

from mailboat_agent.update.steps import Refusal
from mailboat_controller.simulate.device import SimulatedDevice
from mailboat_controller.simulate.own_facts import MEMORY_BUDGET_BYTES
from mailboat_schemas.class_budgets import NO_BUDGETS, ClassBudgets
from mailboat_schemas.events import Event, EventKind
from mailboat_schemas.reports import ModelPhase

OF_A_BUDGET = frozenset({"memory", "disk"})  # checks; no disk of a story is ever full
OF_A_TRIAL = frozenset({"memory_exceeded", "latency_exceeded", "throughput_too_low"})


class BudgetOracle:
    def __init__(self) -> None:
        # By device and install, what its class allowed as the newest attempt at its trial began.
        self._tried_by: dict[str, dict[int, ClassBudgets]] = defaultdict(dict)

    def began_a_trial(self, device: SimulatedDevice) -> None:
        self._tried_by[device.device][device.state.install] = _told(device)

    def may_fetch(self, device: SimulatedDevice, digest: str) -> None:
        """Asked as a download begins; what ran here already may always be had back."""
        active, state = device.state.active, device.state
        if active is not None and active.digest == digest and state.phase is ModelPhase.COMMITTED:
            return
        over = _too_much_memory(device, digest) or _too_large(device, digest)
        if over:
            raise Violation(2, f"{device.device} fetches what is over its budget: {over}")

    def may_install(self, device: SimulatedDevice, digest: str) -> None:
        """Asked as a release becomes the candidate. A file that is here already may be large."""
        over = _too_much_memory(device, digest)
        if over:
            raise Violation(2, f"{device.device} installs what is over its budget: {over}")

    def told(self, device: SimulatedDevice, event: Event, digest: str) -> None:
        """For the first time, of a trial's end."""
        allowed = self._tried_by[device.device].get(device.state.install)
        if allowed is None:
            return
        over = _over_in_trial(device, digest, allowed)
        if event.kind is EventKind.SOAK_STARTED and over:
            raise Violation(2, f"{device.device} serves what its trial must refuse: {over}")
        failed = event.code if event.kind is EventKind.TRIAL_FAILED else ""
        if failed in OF_A_TRIAL and not over:
            raise Violation(4, f"{device.device} fails by a budget that nobody has set: {failed}")

    def refuses_rightly(
        self,
        device: SimulatedDevice,
        refused: Iterable[Refusal],
        meant: Mapping[str, tuple[object, ...]],
    ) -> None:
        """At the newest look. ``meant`` is what it has told, by event."""
        for refusal in refused:
            digest, because = refusal.candidate.digest, refusal.check.because
            if refusal.check.name not in OF_A_BUDGET:
                continue
            over = _too_much_memory(device, digest) or _too_large(device, digest)
            if not over:
                raise Violation(4, f"{device.device} waits for room that it has: {because}")
            if "own" not in over and "class" not in because:
                raise Violation(3, f"{device.device} does not say whose budget it is: {because}")
            told = any(
                kind is EventKind.RELEASE_REFUSED and of == digest for kind, of, _ in meant.values()
            )
            if device.up and not told:
                raise Violation(3, f"{device.device} refuses {digest[:8]} and tells nobody")

    def at_the_end(self, device: SimulatedDevice) -> None:
        for refusal in device.work.refused:
            digest = refusal.candidate.digest
            over = _too_much_memory(device, digest) or _too_large(device, digest)
            if refusal.check.name in OF_A_BUDGET and not over:
                raise Violation(4, f"{device.device} still waits: {refusal.check.because}")


def _told(device: SimulatedDevice) -> ClassBudgets:
    return NO_BUDGETS if device.manifest is None else device.manifest.budgets


def _variant(device: SimulatedDevice, digest: str) -> Any:
    document = device.around.releases[digest].document
    return next(v for v in document.variants if device.hardware_class in v.hardware_classes)


def _too_much_memory(device: SimulatedDevice, digest: str) -> str:
    peak, of_class = _variant(device, digest).peak_memory, _told(device).memory_bytes
    if peak > MEMORY_BUDGET_BYTES:
        return f"{peak} bytes of memory, its own {MEMORY_BUDGET_BYTES}"
    if of_class is not None and peak > of_class:
        return f"{peak} bytes of memory, its class's {of_class}"
    return ""


def _too_large(device: SimulatedDevice, digest: str) -> str:
    most = _told(device).model_bytes_max
    for file in _variant(device, digest).files:
        if most is not None and file.length > most and file.sha256 not in device.disk.held:
            return f"a file of {file.length} bytes, its class's {most}"
    return ""


def _over_in_trial(device: SimulatedDevice, digest: str, allowed: ClassBudgets) -> str:
    release, peak = device.around.releases[digest], _variant(device, digest).peak_memory
    slowest, least = allowed.latency_p95_ms_max, allowed.throughput_per_second_min
    if allowed.memory_bytes is not None and peak > allowed.memory_bytes:
        return f"{peak} bytes of memory"
    if slowest is not None and release.latency_p95_ms > slowest:
        return f"{release.latency_p95_ms} ms"
    if least is not None and 1000 / release.latency_p95_ms < least:
        return f"{1000 / release.latency_p95_ms:.0f} a second"
    return ""
