"""Whether a device would decide again what it decided last: `decide` is pure, so from the same
values it comes to the same step, and a fleet looks far more often than anything changes.
"""

from operator import is_
from typing import TYPE_CHECKING

from mailboat_agent.update.steps import Keep, Step
from mailboat_schemas.plan import Plan

if TYPE_CHECKING:
    from mailboat_controller.simulate.device import SimulatedDevice


def same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    """Whether they are the same objects, in the same order: whoever changes a value makes another
    object of it."""
    return len(one) == len(other) and all(map(is_, one, other))


class Settled:
    __slots__ = ("_device", "_kept_from", "_made_of")

    def __init__(self, device: "SimulatedDevice") -> None:
        self._device = device
        self._made_of: tuple[object, ...] = ()  # the step that is being decided
        self._kept_from: tuple[object, ...] = ()  # the newest one, if that was to keep

    def would_keep_again(self) -> bool:
        """A step is to be decided: is it known what it would be?"""
        device, work = self._device, self._device.work
        # Everything that a step follows from, but the time.
        self._made_of = (
            device.record,
            device.manifest,
            device.roles,
            device.facts(),
            device.disk.set_aside,
            work.serving,
            work.download.came_to_nothing,
            work.attempt_running,
            work.trial_passed,
            device.rules.staleness.stopped,
        )
        return same(self._made_of, self._kept_from)

    def decided(self, step: Step) -> None:
        keeps = isinstance(step, Keep) and not self._waits_for_a_time()
        self._kept_from = self._made_of if keeps else ()

    def _waits_for_a_time(self) -> bool:
        """Whether the same values lead elsewhere later on: of a window, the cadence or a plan.
        Nobody pins or holds a simulated device."""
        rules = self._device.rules.rules
        if rules.windows or rules.days_between or rules.lacking:
            return True
        plans = (each.standing.plan for each in self._device.roles.known.values())
        return any(plan is not None and _is_timed(plan) for plan in plans)


def _is_timed(plan: Plan) -> bool:
    return bool(plan.expires) or any(wave.earliest for wave in plan.waves)
