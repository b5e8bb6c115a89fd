"""How well an output agrees with its golden values, as one number over all samples. Pure."""

import math
from collections.abc import Sequence
from typing import Any

from mailboat_agent.serving.tensors import FLOATS, Tensor
from mailboat_schemas.documents.trial_gates import GoldenMetric, MetricGate

ROW_ELEMENTS_MIN = 2  # of one element the largest is always the same, which would prove nothing


class MetricTally:
    """Sums up one output, sample by sample."""

    def __init__(self, name: str, gate: MetricGate) -> None:
        self.name = name
        self.gate = gate
        self.problem = ""  # why it cannot be said; once set, the gate is closed
        self._good = self._total = 0
        self._worst: float | None = None

    def add(self, sample: int, answer: Tensor | None, expected: Tensor) -> None:
        if self.problem:
            return
        problem = _unlike(answer, expected)
        if answer is None or problem:
            self.problem = f"sample {sample}: {problem}"
            return
        got, wanted = answer.values(), expected.values()
        match self.gate.metric:
            case GoldenMetric.ACCURACY:
                self._good += sum(map(_equal, got, wanted))
                self._total += len(wanted)
            case GoldenMetric.TOP1:
                width = expected.shape[-1] if expected.shape else 1
                if width < ROW_ELEMENTS_MIN:
                    self.problem = f"top1 needs rows of two or more, they have {width}"
                    return
                rows = range(0, len(wanted), width)
                self._good += sum(
                    _top(got[row : row + width]) == _top(wanted[row : row + width]) for row in rows
                )
                self._total += len(rows)
            case GoldenMetric.COSINE:
                self._keep_worst(_cosine(got, wanted), min)
            case GoldenMetric.RELATIVE_ERROR:
                self._keep_worst(_relative_error(got, wanted), max)

    @property
    def value(self) -> float | None:
        """None if nothing can be said."""
        if self.problem:
            return None
        return self._worst if self._worst is not None else self._good / max(1, self._total)

    @property
    def holds(self) -> bool:
        value, gate = self.value, self.gate
        if value is None or math.isnan(value):
            return False
        if gate.at_most is not None:
            return value <= gate.at_most
        return gate.at_least is not None and value >= gate.at_least

    def told(self) -> str:
        bound = self.gate.at_least if self.gate.at_most is None else self.gate.at_most
        said = self.problem or f"{self.value:.6g}"
        return f"{self.gate.metric.value} of output {self.name!r}: {said}, {bound:.6g} is asked for"

    def _keep_worst(self, value: float, worse: Any) -> None:
        if math.isnan(value):
            self.problem = "an element is not a finite number"
        self._worst = value if self._worst is None else worse(self._worst, value)


def _unlike(answer: Tensor | None, expected: Tensor) -> str:
    if answer is None:
        return "the model did not answer it"
    if (answer.datatype, answer.shape) != (expected.datatype, expected.shape):
        return (
            f"{answer.datatype} {list(answer.shape)}, golden is {expected.datatype} "
            f"{list(expected.shape)}"
        )
    if expected.datatype in FLOATS and any(map(math.isnan, (*answer.values(), *expected.values()))):
        return "an element is NaN"
    return ""


def _equal(one: object, other: object) -> bool:
    return one == other


def _top(row: Sequence[Any]) -> int:
    return max(range(len(row)), key=row.__getitem__)


def _cosine(got: Sequence[Any], wanted: Sequence[Any]) -> float:
    if isinstance(wanted[0] if wanted else 0, bytes):
        return math.nan
    # Scaled first: the squares of large finite numbers are not finite.
    got, wanted = _scaled(got), _scaled(wanted)
    product = math.fsum(a * b for a, b in zip(got, wanted, strict=True))
    lengths = math.sqrt(math.fsum(a * a for a in got) * math.fsum(b * b for b in wanted))
    if lengths == 0:  # nothing has a direction: the same only if both are nothing
        return 1.0 if not any(got) and not any(wanted) else 0.0
    return product / lengths


def _scaled(values: Sequence[Any]) -> list[float]:
    largest = max((abs(value) for value in values), default=0)
    return [float(value / largest) if largest else 0.0 for value in values]


def _relative_error(got: Sequence[Any], wanted: Sequence[Any]) -> float:
    if isinstance(wanted[0] if wanted else 0, bytes):
        return math.nan
    if got == wanted:
        return 0.0
    error = math.hypot(*(float(a) - float(b) for a, b in zip(got, wanted, strict=True)))
    size = math.hypot(*map(float, wanted))
    return error / size if size else math.inf
