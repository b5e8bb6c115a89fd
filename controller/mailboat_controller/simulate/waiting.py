"""A look at the moment that a device waits for: the agent looks every second, this one would be too
large a fleet for that."""

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mailboat_controller.simulate.device import SimulatedDevice


class NextLook:
    __slots__ = ("_at", "_device")

    def __init__(self, device: "SimulatedDevice") -> None:
        self._device = device
        self._at = 0.0

    def forget(self) -> None:
        """The process is gone, and what it would have looked at."""
        self._at = 0.0

    def not_before(self, instants: Iterable[datetime | None]) -> None:
        """At the first of them by the device's clock, unless a look is asked for already. None: it
        is not known when."""
        device = self._device
        known = [each.timestamp() for each in instants if each is not None]
        if known and self._at <= device.around.agenda.now:
            seconds = max(1.0, min(known) - device.clock_seconds + 1.0)
            self._at = device.around.agenda.now + seconds
            device.later(seconds, device.look)
