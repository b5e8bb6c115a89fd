"""What was measured beside what it may be, and how that is told."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Held:
    """One figure of the bar. ``value`` is NaN where it could not be measured: not held either."""

    name: str
    value: float
    bound: float
    ok: bool

    @property
    def told(self) -> str:
        if math.isnan(self.value):
            return f"{self.name:44}not measured"
        return f"{self.name:44}{self.value:10.2f} of {self.bound:g}{'' if self.ok else '  MISSED'}"


def at_most(name: str, value: float, bound: float) -> Held:
    return Held(name, value, bound, value <= bound)


def at_least(name: str, value: float, bound: float) -> Held:
    return Held(name, value, bound, value >= bound)


def above(name: str, value: float, bound: float) -> Held:
    return Held(name, value, bound, value > bound)


def status(held: Sequence[Held]) -> int:
    """Of the process: 1 for a bar that was missed, 2 for one that could not be measured."""
    if any(not each.ok and not math.isnan(each.value) for each in held):
        return 1
    return 0 if all(each.ok for each in held) else 2


def as_json(held: Sequence[Held], **more: object) -> str:
    figures = [
        asdict(each) | {"value": None if math.isnan(each.value) else each.value} for each in held
    ]
    return json.dumps({**more, "ok": status(held) == 0, "held": figures})
