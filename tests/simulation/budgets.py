"""What people allow a hardware class, in mid-story: tightened and loosened again.

In one story of five, drawn from a seed of its own: the others are the same without it. Releases
differ there in how much memory and time they take, and some take more than any device gives.
"""

import random
from typing import Any

from mailboat_controller.simulate.controller import SimulatedController
from mailboat_controller.simulate.fleet import Fleet
from mailboat_schemas.class_budgets import NO_BUDGETS, ClassBudgets

DAY = 86_400.0
MIB = 1 << 20
SHARE_OF_STORIES = 0.2
PEAKS_MIB = (1, 64, 512, 2048)  # the last is more than a device gives
LATENCIES_MS = (2.0, 5.0, 20.0)
# What a class may say of each, None: nothing. The last in memory is more than a device gives.
MEMORY_MIB = (None, 32, 256, 4096)
FILE_MIB = (None, 16, 256)
LATENCY_MS = (None, 10.0)
PER_SECOND = (None, 100.0)


class Budgets:
    def __init__(self, fleet: Fleet, seed: int, classes: tuple[str, ...]) -> None:
        self._fleet = fleet
        self._rng = random.Random(f"budgets:{seed}")
        self._classes = classes
        self.on = self._rng.random() < SHARE_OF_STORIES

    def begin(self, days: float) -> None:
        if not self.on:
            return
        for _ in range(self._rng.randint(3, 8)):
            at = self._rng.uniform(0.1, days - 0.5) * DAY
            self._fleet.agenda.after(at, self._somebody_decides)

    def of_a_release(self) -> dict[str, Any]:
        """What one that is made now takes."""
        if not self.on:
            return {}
        peak = self._rng.choices(PEAKS_MIB, (5, 4, 3, 1))[0] * MIB
        return {"peak_memory_bytes": peak, "latency_p95_ms": self._rng.choice(LATENCIES_MS)}

    def _somebody_decides(self) -> SimulatedController:
        self._allow(self._rng.choice(self._classes), self._drawn())
        return self._fleet.controller

    def _drawn(self) -> ClassBudgets:
        rng = self._rng
        if rng.random() < 0.3:
            return NO_BUDGETS
        memory, file = rng.choice(MEMORY_MIB), rng.choice(FILE_MIB)
        return ClassBudgets(
            memory_bytes=None if memory is None else memory * MIB,
            model_bytes_max=None if file is None else file * MIB,
            latency_p95_ms_max=rng.choice(LATENCY_MS),
            throughput_per_second_min=rng.choice(PER_SECOND),
        )

    def _allow(self, hardware_class: str, budgets: ClassBudgets) -> None:
        self._fleet.controller.allow(hardware_class, budgets)
        self._fleet.controller.reconcile()

    def lift(self) -> None:
        """Trouble is over: no class takes anything from what its devices give."""
        if not self.on:
            return
        for name in self._classes:
            generous = ClassBudgets(memory_bytes=4096 * MIB, model_bytes_max=4096 * MIB)
            self._allow(name, self._rng.choice((NO_BUDGETS, generous)))
