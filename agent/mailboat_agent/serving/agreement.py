"""Whether a candidate's answer to a live request is the same as the one that was given. Pure."""

import math
import random
from collections.abc import Sequence

from mailboat_agent.serving.tensor_samples import (
    element_count,
    has_numbers,
    numbers_at,
    row_at,
    sampled_places,
)
from mailboat_agent.serving.tensors import Tensor
from mailboat_schemas.documents.live_gates import Comparison, Shadow

ELEMENTS_COMPARED_MAX = 4096  # of one output: about a millisecond beside live traffic


def difference(
    given: Sequence[Tensor], answered: Sequence[Tensor], shadow: Shadow, rng: random.Random
) -> str:
    """What differs first, in a few words; empty if nothing does.

    Of large outputs `ELEMENTS_COMPARED_MAX` elements are compared, spread over the whole.
    """
    by_name = {tensor.name: tensor for tensor in answered}
    for tensor in given:
        if shadow.outputs and tensor.name not in shadow.outputs:
            continue
        if problem := _difference(tensor, by_name.get(tensor.name), shadow, rng):
            return f"output {tensor.name!r}: {problem}"
    return ""


def _difference(given: Tensor, answer: Tensor | None, shadow: Shadow, rng: random.Random) -> str:
    if answer is None:
        return "the candidate does not answer it"
    if (answer.datatype, answer.shape) != (given.datatype, given.shape):
        return (
            f"{answer.datatype} {list(answer.shape)} where {given.datatype} {list(given.shape)} "
            "was answered"
        )
    if answer.data == given.data:
        return ""
    if not has_numbers(given):
        return "another text"
    width = given.shape[-1] if given.shape else 1
    match shadow.comparison:
        case Comparison.ARGMAX if width > 1:
            return _other_places(given, answer, width, rng)
        case Comparison.COSINE:
            return _other_direction(given, answer, shadow.cosine_min, rng)
        case Comparison.TOLERANCE | Comparison.ARGMAX:
            # Of a single element the largest is always the same one, which would prove nothing.
            return _too_far(given, answer, shadow.tolerance, rng)


def _too_far(given: Tensor, answer: Tensor, tolerance: float, rng: random.Random) -> str:
    worst = 0.0
    for a, b in _pairs(given, answer, rng):
        if a == b or (math.isnan(a) and math.isnan(b)):
            continue  # also what keeps inf - inf out of the line below
        apart = abs(a - b)
        worst = math.inf if math.isnan(apart) else max(worst, apart)
    return "" if worst <= tolerance else f"off by {worst:.6g}, {tolerance:.6g} is allowed"


def _other_direction(given: Tensor, answer: Tensor, least: float, rng: random.Random) -> str:
    pairs = _pairs(given, answer, rng)
    product = math.fsum(a * b for a, b in pairs)
    lengths = math.sqrt(math.fsum(a * a for a, _ in pairs) * math.fsum(b * b for _, b in pairs))
    if not math.isfinite(product) or not math.isfinite(lengths):
        return "an element is not finite"
    if lengths == 0:  # nothing has a direction: the same only if both are nothing
        return "" if all(a == b for a, b in pairs) else "one of the two is zero"
    cosine = product / lengths
    return "" if cosine >= least else f"cosine {cosine:.6g}, {least:.6g} is asked for"


def _other_places(given: Tensor, answer: Tensor, width: int, rng: random.Random) -> str:
    most = max(1, ELEMENTS_COMPARED_MAX // width)
    for row in sampled_places(element_count(given) // width, most, rng):
        a, b = row_at(given, row, width), row_at(answer, row, width)
        if any(map(math.isnan, (*a, *b))):
            return f"row {row} holds NaN"
        if a.index(max(a)) != b.index(max(b)):
            return f"row {row} has its largest at {b.index(max(b))}, not at {a.index(max(a))}"
    return ""


def _pairs(given: Tensor, answer: Tensor, rng: random.Random) -> list[tuple[float, float]]:
    places = sampled_places(element_count(given), ELEMENTS_COMPARED_MAX, rng)
    return list(zip(numbers_at(given, places), numbers_at(answer, places), strict=True))
