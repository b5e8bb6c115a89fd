"""How far live inputs and outputs are from a release's reference statistics. Pure.

Requests are sampled, and elements of each; what is kept is the counts of the reference's own bins,
so memory is bounded by the reference.

Source: Siddiqi, "Credit Risk Scorecards", 2006 (population stability index); Yurdakul, "Statistical
properties of population stability index", 2018 (what chance explains).
"""

import math
import random
from bisect import bisect_left
from collections.abc import Sequence

from mailboat_agent.serving.tensor_samples import (
    element_count,
    has_numbers,
    numbers_at,
    row_at,
    sampled_places,
)
from mailboat_agent.serving.tensors import Tensor
from mailboat_schemas.documents.reference import Reference, TensorReference
from mailboat_schemas.live_figures import Shift

ELEMENTS_PER_REQUEST_MAX = 1024  # of one tensor: a third of a millisecond
ELEMENTS_OF_ALL_TENSORS_MAX = 4096  # of one request: a model may have 64 of them
ROW_ELEMENTS_RATIO = 4  # of a classifier's answer so many times more, in whole rows: one at least
SHARE_MIN = 1e-4  # what an empty bin counts as: the index has no value for nothing


def population_stability(expected: Sequence[int], actual: Sequence[int]) -> float:
    """The index of two histograms with the same bins: 0 for the same shares, at most about 18.

    Raises:
        ValueError: other bins, or a histogram without any element.
    """
    of_expected, of_actual = sum(expected), sum(actual)
    if not of_expected or not of_actual:
        raise ValueError("a histogram is empty")
    index = 0.0
    for count, counted in zip(expected, actual, strict=True):
        share = max(count / of_expected, SHARE_MIN)
        shared = max(counted / of_actual, SHARE_MIN)
        index += (shared - share) * math.log(shared / share)
    return index


def beyond_chance(
    expected: Sequence[int], actual: Sequence[int], *, samples: int, requests: int
) -> float:
    """The index less what two samples of one population have on average.

    ``samples`` and ``requests`` count inferences, not elements: those of one inference go together.
    """
    bins = sum(1 for pair in zip(expected, actual, strict=True) if any(pair))
    chance = (bins - 1) * (1 / samples + 1 / requests)
    return max(0.0, population_stability(expected, actual) - chance)


class _Counted:
    """One tensor of live traffic, in the bins of its reference."""

    def __init__(self, reference: TensorReference) -> None:
        self._reference = reference
        self.requests = 0
        self._bins = [0] * (len(reference.counts) + 1)  # the last for NaN
        self._classes = [0] * len(reference.classes)

    def add(self, tensor: Tensor, most: int, rng: random.Random) -> None:
        """``most`` elements are looked at."""
        if not tensor.data:
            return  # nothing was found: no element has a value that could have shifted
        self.requests += 1
        if self._reference.edges:
            self._add_values(tensor, most, rng)
        if len(self._classes) > 1 and tensor.shape and tensor.shape[-1] == len(self._classes):
            self._add_classes(tensor, ROW_ELEMENTS_RATIO * most, rng)

    def _add_values(self, tensor: Tensor, most: int, rng: random.Random) -> None:
        places = sampled_places(element_count(tensor), most, rng)
        edges, bins = self._reference.edges, self._bins
        for value in numbers_at(tensor, places):
            bins[-1 if math.isnan(value) else bisect_left(edges, value)] += 1

    def _add_classes(self, tensor: Tensor, most: int, rng: random.Random) -> None:
        width = len(self._classes)
        rows = element_count(tensor) // width
        for row in sampled_places(rows, max(1, most // width), rng):
            values = row_at(tensor, row, width)
            if not any(map(math.isnan, values)):
                self._classes[values.index(max(values))] += 1

    def shift(self, samples: int) -> Shift | None:
        """None while there is nothing to say it of."""
        reference = self._reference
        pairs = (
            ((*reference.counts, reference.nan), self._bins),
            (reference.classes, self._classes),
        )
        shifts = [
            beyond_chance(expected, actual, samples=samples, requests=self.requests)
            for expected, actual in pairs
            if sum(expected) and sum(actual)
        ]
        if not shifts:
            return None
        name, side = reference.name, reference.side
        return Shift(tensor=name, side=side, requests=self.requests, shift=max(shifts))


class DriftStatistics:
    """`add` sampled requests, ask for `shifts` at any time. Not safe between threads."""

    def __init__(self, reference: Reference, rng: random.Random) -> None:
        self._reference = reference
        self._rng = rng
        self._counted: dict[tuple[str, str], _Counted] = {
            (each.side, each.name): _Counted(each)
            for each in reference.tensors
            if each.edges or each.classes
        }
        of_each = ELEMENTS_OF_ALL_TENSORS_MAX // max(1, len(self._counted))
        self._most = min(ELEMENTS_PER_REQUEST_MAX, of_each)

    def add(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """One request. Tensors that the reference does not know are passed over."""
        for side, tensors in (("input", inputs), ("output", outputs)):
            for tensor in tensors:
                counted = self._counted.get((side, tensor.name))
                if counted is not None and has_numbers(tensor):
                    counted.add(tensor, self._most, self._rng)

    def shifts(self) -> tuple[Shift, ...]:
        """Of each tensor that was seen, the furthest first."""
        found = [counted.shift(self._reference.samples) for counted in self._counted.values()]
        seen = [shift for shift in found if shift is not None]
        seen.sort(key=lambda shift: (-shift.shift, shift.side, shift.tensor))
        return tuple(seen)

    def fresh(self) -> "DriftStatistics":
        """The same reference, and nothing counted."""
        return DriftStatistics(self._reference, self._rng)
