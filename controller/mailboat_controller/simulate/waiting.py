"""A look at the moment that a device waits for: the agent looks every second, this one would be too
large a fleet for that."""

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from mailboat_agent.update.steps import Refusal
from mailboat_schemas.switch_timing import OF_TIME, earliest

if TYPE_CHECKING:
    from mailboat_controller.simulate.device import SimulatedDevice

LATE_SECONDS = 1.0  # after the moment, so that it has come by the device's clock too


class NextLook:
    __slots__ = ("_at", "_device")

    def __init__(self, device: "SimulatedDevice") -> None:
        self._device = device
        self._at = 0.0

    def forget(self) -> None:
        """The process is gone, and what it would have looked at."""
        self._at = 0.0

    def when_it_is_time(self, refusals: Iterable[Refusal]) -> None:
        """For a window or the cadence that a release was refused by."""
        device = self._device
        plans = [r.candidate.standing.plan for r in refusals if r.check.name in OF_TIME]
        rules, switched_at = device.rules.rules, device.state.switched_at
        self.not_before(earliest(rules, plan, switched_at, device.now) for plan in plans)

    def not_before(self, instants: Iterable[datetime | None]) -> None:
        """At the first of them by the device's clock, unless a look is asked for by then already.
        None: it is not known when."""
        device, now = self._device, self._device.around.agenda.now
        known = [each.timestamp() for each in instants if each is not None]
        if not known:
            return
        seconds = max(LATE_SECONDS, min(known) - device.clock_seconds + LATE_SECONDS)
        # The same instant is worked out anew at each look, and rounds to another.
        if self._at <= now or now + seconds < self._at - LATE_SECONDS:
            self._at = now + seconds
            device.later(seconds, device.look)
