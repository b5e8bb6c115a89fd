"""How many devices a rollout has reached, against how many its waves name. Looks on, decides not.

The allowance is worked out from the plan alone, not from what the controller opened.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mailboat_controller.rollout.decide import Decision, Rollout
from mailboat_controller.rollout.state import Phase
from mailboat_schemas.cohort import PPM
from mailboat_schemas.events import Event, EventKind
from mailboat_schemas.plan import Plan

_BAD = frozenset({EventKind.TRIAL_FAILED, EventKind.ROLLED_BACK})


def allowed(plan: Plan, waves: int, eligible: Mapping[int, Mapping[str, int]]) -> dict[str, int]:
    """By class, how many devices the first ``waves`` waves of a plan may reach.

    ``eligible``: by wave, then class, how many devices its ring had when the wave opened. Waves of
    one ring contain each other; pilots come on top.
    """
    found: dict[str, int] = {}
    for hardware_class in {name for by_class in eligible.values() for name in by_class}:
        pilots: set[str] = set()
        rings: dict[tuple[tuple[str, str], ...], int] = {}
        for index, wave in enumerate(plan.waves[:waves]):
            devices = eligible.get(index, {}).get(hardware_class, 0)
            named = min(wave.count, devices) if wave.count else -(-wave.count_ppm * devices // PPM)
            ring = tuple(sorted(wave.ring.items()))
            rings[ring] = max(rings.get(ring, 0), named)
            pilots.update(wave.pilots)
        found[hardware_class] = len(pilots) + sum(rings.values())
    return found


@dataclass(frozen=True, slots=True)
class Point:
    """``seconds`` since the rollout was approved. ``running``: serve the release now."""

    seconds: float
    exposed: int
    allowed: int
    good: int
    bad: int


class Exposure:
    """Watches one release of a fleet; ``ring_sizes`` counts the devices a wave's ring has now."""

    def __init__(
        self,
        digest: str,
        now: Callable[[], float],
        ring_size: Callable[[str, Mapping[str, str]], int],
    ) -> None:
        self._digest = digest
        self._now = now
        self._ring_size = ring_size
        self.begins = now()
        self.reached: dict[str, set[str]] = {}
        self.allowed: dict[str, int] = {}
        self.good: set[str] = set()
        self.bad: set[str] = set()
        self.good_at: list[float] = []  # seconds since it began, one for each device
        self.points: list[Point] = []
        self.above: list[str] = []  # what must never be: more than the waves name
        self.moves: list[tuple[float, str, str]] = []  # seconds, what, because
        self._eligible: dict[int, dict[str, int]] = {}

    def told(self, device: str, hardware_class: str, event: Event, epoch: str) -> None:
        del hardware_class, epoch
        if event.digest != self._digest:
            return
        if event.kind is EventKind.COMMITTED and device not in self.good:
            self.good.add(device)
            self.good_at.append(self._now() - self.begins)
            self._note()
        elif event.kind in _BAD and device not in self.bad:
            self.bad.add(device)
            self._note()

    def exposed(self, device: str, hardware_class: str, digest: str) -> None:
        if digest != self._digest:
            return
        reached = self.reached.setdefault(hardware_class, set())
        reached.add(device)
        may = self.allowed.get(hardware_class, 0)
        if len(reached) > may:
            self.above.append(
                f"{len(reached)} of {hardware_class} were reached, {may} are named: {device}"
            )
        self._note()

    def drilled(self, device: str, digest: str) -> None:
        """Nobody is exposed by it."""

    def on_decision(self, rollout: Rollout, decision: Decision) -> None:
        if rollout.digest != self._digest:
            return
        if decision.opens is not None:
            index = rollout.waves_open
            ring = rollout.plan.waves[index].ring
            self._eligible[index] = {name: self._ring_size(name, ring) for name in decision.opens}
            self.allowed = allowed(rollout.plan, index + 1, self._eligible)
        what = "wave opened" if decision.opens is not None else decision.phase.value
        if decision.phase is Phase.COMPLETED:  # current, for everybody whom the plan ever lets in
            self.allowed = {name: self._ring_size(name, {}) for name in self.allowed}
        self.moves.append((self._now() - self.begins, what, decision.because))
        self._note()

    @property
    def reached_devices(self) -> int:
        return sum(map(len, self.reached.values()))

    def _note(self) -> None:
        self.points.append(
            Point(
                seconds=self._now() - self.begins,
                exposed=self.reached_devices,
                allowed=sum(self.allowed.values()),
                good=len(self.good),
                bad=len(self.bad),
            )
        )


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """The last of each of ``most`` equal spans of time, and the first."""
    if len(points) <= most:
        return list(points)
    ends = points[-1].seconds or 1.0
    kept = {int(point.seconds / ends * most): point for point in points}
    return [points[0], *kept.values()]
