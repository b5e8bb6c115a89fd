"""What happens when: virtual time, and whatever was asked for in its order."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

Act = Callable[..., Any]


class Agenda:
    """Times are seconds since 1970 UTC, of a clock that is always right."""

    __slots__ = ("_asked", "_heap", "now", "steps")

    def __init__(self, starts: float) -> None:
        self.now = starts
        self.steps = 0  # that were taken
        self._heap: list[tuple[float, int, Act, tuple[Any, ...]]] = []
        self._asked = 0  # of two for one instant, what was asked for first comes first

    def after(self, seconds: float, act: Act, *told: Any) -> None:
        """Ask for ``act(*told)`` in so many seconds."""
        self._asked += 1
        heappush(self._heap, (self.now + seconds, self._asked, act, told))

    def step(self, until: float) -> Any:
        """Take the next step, if it comes before ``until``: who took it, or `OVER`.

        None is no step: it was asked for by a process that is gone, or sent to a link that is down.
        """
        if not self._heap or self._heap[0][0] > until:
            self.now = until
            return OVER
        self.now, _, act, told = heappop(self._heap)
        touched = act(*told)
        if touched is not None:
            self.steps += 1
        return touched


OVER = object()
