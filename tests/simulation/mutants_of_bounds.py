"""Planted bugs of what bounds a device: staleness that stops, budgets of a class. See `mutants`."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mailboat_agent.update import stale
from mailboat_agent.update.decide import REFUSING_CHECKS
from mailboat_agent.update.refuge import should_serve
from mailboat_agent.update.state import ModelState
from mailboat_controller.simulate import device as shell
from mailboat_controller.simulate import model_work, own_facts
from mailboat_controller.simulate.device import SimulatedDevice
from mailboat_controller.simulate.releases import MODEL
from mailboat_schemas import eligibility
from mailboat_schemas.class_budgets import NO_BUDGETS, ClassBudgets
from mailboat_schemas.eligibility import Check, DeviceFacts
from mailboat_schemas.events import Event
from mailboat_schemas.reports import ModelPhase
from mailboat_schemas.staleness import NOT_STALE, Action, Behind, Enforcement

Plant = tuple[object, str, Any]
_JUDGE, _ENFORCEMENT, _STALE_EVENT = stale.judge, stale.enforcement, stale.stale_event
_FACTS_OF, _BUDGETS_OF = own_facts.facts_of, own_facts.budgets_of
_DISK = eligibility._disk

# --- staleness that stops -------------------------------------------------------------------------


def _serves_again_when_it_expires(
    state: ModelState, far: Behind | None, bound: Any, *, now: Any, trust_fresh: bool
) -> Enforcement:
    known = state if trust_fresh else replace(state, stopped="")
    return _JUDGE(known, far, bound, now=now, trust_fresh=trust_fresh)


def _serves_again_by_a_wrong_clock(
    state: ModelState, far: Behind | None, *told: Any, **more: Any
) -> Enforcement:
    return NOT_STALE if far is None else _JUDGE(state, far, *told, **more)


def _stops_what_soaks(state: ModelState, *told: Any, **more: Any) -> Enforcement:
    return _JUDGE(replace(state, phase=ModelPhase.COMMITTED), *told, **more)


def _never_serves_again(state: ModelState, *told: Any, **more: Any) -> Enforcement:
    serving = state.serving
    if serving is not None and serving.digest == state.stopped:
        return stale.STILL_STOPPED
    return _JUDGE(state, *told, **more)


def _without_grace(behind: Behind, bound: Any, *told: Any) -> Enforcement:
    return _ENFORCEMENT(behind, bound.model_copy(update={"grace_hours": 0}), *told)


def _stops_where_it_may_warn(behind: Behind, bound: Any, *told: Any) -> Enforcement:
    enforce = "stop" if bound.enforce == "warn" else bound.enforce
    return _ENFORCEMENT(behind, bound.model_copy(update={"enforce": enforce}), *told)


def _only_warns(behind: Behind, bound: Any, *told: Any) -> Enforcement:
    return _ENFORCEMENT(behind, bound.model_copy(update={"enforce": "warn"}), *told)


def _grace_begins_anew(self: SimulatedDevice, real: Any = SimulatedDevice.begin) -> None:
    anew = replace(self.state, stale_since=0)
    self.record = replace(self.record, models={**self.record.models, MODEL: anew})
    real(self)


def _serves_what_is_stopped(situation: Any) -> Any:
    return should_serve(replace(situation, stopped=""))


def _counts_what_is_stopped(device: SimulatedDevice, before: DeviceFacts | None) -> DeviceFacts:
    found, state = _FACTS_OF(device, before), device.state
    if state.serving is None:
        return found
    return replace(found, switched_at={MODEL: state.switched_at})


def _stops_without_a_word(
    model: str, state: ModelState, found: Enforcement, now: Any
) -> Event | None:
    return None if found.action is Action.STOP else _STALE_EVENT(model, state, found, now)


# --- budgets of a class ---------------------------------------------------------------------------


def _no_budgets(device: SimulatedDevice) -> ClassBudgets:
    del device
    return NO_BUDGETS


class _FirstBudgets:
    """Whatever comes later."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[object, ClassBudgets]] = {}

    def __call__(self, device: SimulatedDevice) -> ClassBudgets:
        around, budgets = self._held.get(device.device, (None, NO_BUDGETS))
        if around is not device.around or budgets == NO_BUDGETS:
            budgets = _BUDGETS_OF(device)
            self._held[device.device] = (device.around, budgets)
        return budgets


def _serves_within_budget(situation: Any) -> Any:
    found, allowed = should_serve(situation), situation.facts.class_budgets.memory_bytes
    known = situation.of(found.release)
    if allowed is None or known is None or known.document is None:
        return found
    variant = known.document.variant_for(situation.facts.hardware_class)
    return replace(found, allowed=found.allowed and variant.peak_memory <= allowed)


def _as_the_class_says(facts: DeviceFacts, variant: Any) -> Check:
    own, of_class = facts.memory_budget_bytes, facts.class_budgets.memory_bytes
    needs = 0 if variant is None else variant.peak_memory
    return Check("memory", needs <= (of_class or own), f"the class allows {of_class}")


def _any_file(facts: DeviceFacts, variant: Any) -> Check:
    return _DISK(replace(facts, class_budgets=NO_BUDGETS), variant)


def mutants_of_stops() -> Iterator[tuple[str, list[Plant]]]:
    """Of stories with policies that stop."""
    yield (
        "a stop ends when trust metadata expires",
        [(stale, "judge", _serves_again_when_it_expires)],
    )
    yield "a wrong clock ends a stop", [(stale, "judge", _serves_again_by_a_wrong_clock)]
    yield "what is in its soak is stopped", [(stale, "judge", _stops_what_soaks)]
    yield "what was stopped never serves again", [(stale, "judge", _never_serves_again)]
    yield "the grace is not waited for", [(stale, "enforcement", _without_grace)]
    yield (
        "a policy that may only warn stops",
        [(stale, "enforcement", _stops_where_it_may_warn)],
    )
    yield "a policy that stops only warns", [(stale, "enforcement", _only_warns)]
    yield (
        "the grace begins anew at each start",
        [(SimulatedDevice, "begin", _grace_begins_anew)],
    )
    yield "what is stopped serves on", [(model_work, "should_serve", _serves_what_is_stopped)]
    yield (
        "a stopped device waits for a window",
        [(shell, "facts_of", _counts_what_is_stopped)],
    )
    yield "a stop is not told", [(stale, "stale_event", _stops_without_a_word)]


def mutants_of_budgets() -> Iterator[tuple[str, list[Plant]]]:
    """Of stories in which people tighten and loosen what a class allows."""
    yield "the budgets of a class are not looked at", [(own_facts, "budgets_of", _no_budgets)]
    yield "a trial is not held to its class", [(model_work, "budgets_of", _no_budgets)]
    yield "a later budget does not count", [(own_facts, "budgets_of", _FirstBudgets())]
    yield "a budget ends what serves", [(model_work, "should_serve", _serves_within_budget)]
    yield "a class adds to what a device gives", [(eligibility, "_memory", _as_the_class_says)]
    yield "a file that a class forbids is fetched", [(eligibility, "_disk", _any_file)]
    yield (
        "what a budget refuses is told to nobody",
        [(shell, "REFUSING_CHECKS", REFUSING_CHECKS - {"memory", "disk"})],
    )
