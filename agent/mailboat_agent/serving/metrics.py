"""How well an output agrees with its golden values, as one number over all samples. Pure."""

import math
import operator
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from mailboat_agent.serving.tensors import FLOATS, Tensor, element_count
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
        match self.gate.metric:
            case GoldenMetric.ACCURACY:
                self._good += sum(map(operator.eq, answer.iterate(), expected.iterate()))
                self._total += element_count(expected.shape)
            case GoldenMetric.TOP1:
                width = expected.shape[-1] if expected.shape else 1
                if width < ROW_ELEMENTS_MIN:
                    self.problem = f"top1 needs rows of two or more, they have {width}"
                    return
                tops = zip(_tops(answer, width), _tops(expected, width), strict=True)
                for got, wanted in tops:
                    self._good += got == wanted
                    self._total += 1
            case GoldenMetric.COSINE:
                self._keep_worst(_cosine(answer, expected), min)
            case GoldenMetric.RELATIVE_ERROR:
                self._keep_worst(_relative_error(answer, expected), max)

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
    if expected.datatype in FLOATS:
        for tensor in (answer, expected):
            if any(map(math.isnan, tensor.iterate())):
                return "an element is NaN"
    return ""


# Each of these goes through the elements as often as it needs to, and keeps none.


def _tops(tensor: Tensor, width: int) -> Iterator[int]:
    """Of each row the place of its largest element, the first of several."""
    values = tensor.iterate()
    for _ in range(element_count(tensor.shape) // width):
        place, largest = 0, next(values)
        for index, value in enumerate(islice(values, width - 1), start=1):
            if value > largest:
                place, largest = index, value
        yield place


def _cosine(got: Tensor, wanted: Tensor) -> float:
    if wanted.datatype == "BYTES":
        return math.nan
    # Scaled by it first: the squares of large finite numbers are not finite.
    a, b = _largest(got), _largest(wanted)
    if not a or not b:  # nothing has a direction: the same only if both are nothing
        return 1.0 if a == b else 0.0
    product = math.fsum(
        float(x / a) * float(y / b) for x, y in zip(got.iterate(), wanted.iterate(), strict=True)
    )
    return product / math.sqrt(_squares(got.iterate(), a) * _squares(wanted.iterate(), b))


def _relative_error(got: Tensor, wanted: Tensor) -> float:
    if wanted.datatype == "BYTES":
        return math.nan
    if got.data == wanted.data:
        return 0.0
    size, error = _length(wanted.iterate, _largest(wanted)), 0.0

    def apart() -> Iterator[float]:
        return (float(x) - float(y) for x, y in zip(got.iterate(), wanted.iterate(), strict=True))

    error = _length(apart, max(map(abs, apart()), default=0.0))
    if size:
        return error / size
    return math.inf if error else 0.0


def _largest(tensor: Tensor) -> Any:
    return max(map(abs, tensor.iterate()), default=0)


def _length(values: Callable[[], Iterator[Any]], largest: Any) -> float:
    if not largest or math.isinf(largest):
        return float(largest)
    return float(largest) * math.sqrt(_squares(values(), largest))


def _squares(values: Iterator[Any], largest: Any) -> float:
    return math.fsum(float(value / largest) ** 2 for value in values)
