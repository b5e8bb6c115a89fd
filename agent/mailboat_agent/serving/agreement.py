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

ELEMENTS_COMPARED_MAX = 4096  # of all outputs: about a millisecond beside live traffic


def difference(
    given: Sequence[Tensor], answered: Sequence[Tensor], shadow: Shadow, rng: random.Random
) -> str:
    """What differs first, in a few words; empty if nothing does.

    Of large outputs `ELEMENTS_COMPARED_MAX` elements are compared, spread over the whole.
    """
    by_name = {tensor.name: tensor for tensor in answered}
    count = [each for each in given if not shadow.outputs or each.name in shadow.outputs]
    most = max(1, ELEMENTS_COMPARED_MAX // max(1, len(count)))
    for tensor in count:
        if problem := _difference(tensor, by_name.get(tensor.name), shadow, most, rng):
            return f"output {tensor.name!r}: {problem}"
    return ""


def _difference(
    given: Tensor, answer: Tensor | None, shadow: Shadow, most: int, rng: random.Random
) -> str:
    """``most`` elements are compared."""
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
            return _other_places(given, answer, width, most, rng)
        case Comparison.COSINE:
            return _other_direction(_pairs(given, answer, most, rng), shadow.cosine_min)
        case Comparison.TOLERANCE | Comparison.ARGMAX:
            # Of a single element the largest is always the same one, which would prove nothing.
            return _too_far(_pairs(given, answer, most, rng), shadow.tolerance)


def _too_far(pairs: Sequence[tuple[float, float]], tolerance: float) -> str:
    worst = 0.0
    for a, b in pairs:
        if a == b or (math.isnan(a) and math.isnan(b)):
            continue  # also what keeps inf - inf out of the line below
        apart = abs(a - b)
        worst = math.inf if math.isnan(apart) else max(worst, apart)
    return "" if worst <= tolerance else f"off by {worst:.6g}, {tolerance:.6g} is allowed"


def _other_direction(pairs: Sequence[tuple[float, float]], least: float) -> str:
    if not all(math.isfinite(a) and math.isfinite(b) for a, b in pairs):
        return "an element is not finite"
    # Scaled first: the squares of large finite numbers are not finite.
    most_a = max((abs(a) for a, _ in pairs), default=0) or 1
    most_b = max((abs(b) for _, b in pairs), default=0) or 1
    pairs = [(a / most_a, b / most_b) for a, b in pairs]
    product = math.fsum(a * b for a, b in pairs)
    lengths = math.sqrt(math.fsum(a * a for a, _ in pairs) * math.fsum(b * b for _, b in pairs))
    if lengths == 0:  # nothing has a direction: the same only if both are nothing
        return "" if not any(map(any, pairs)) else "one of the two is zero"
    cosine = product / lengths
    return "" if cosine >= least else f"cosine {cosine:.6g}, {least:.6g} is asked for"


def _other_places(given: Tensor, answer: Tensor, width: int, most: int, rng: random.Random) -> str:
    for row in sampled_places(element_count(given) // width, max(1, most // width), rng):
        a, b = row_at(given, row, width), row_at(answer, row, width)
        if any(map(math.isnan, (*a, *b))):
            return f"row {row} holds NaN"
        if a.index(max(a)) != b.index(max(b)):
            return f"row {row} has its largest at {b.index(max(b))}, not at {a.index(max(a))}"
    return ""


def _pairs(
    given: Tensor, answer: Tensor, most: int, rng: random.Random
) -> list[tuple[float, float]]:
    places = sampled_places(element_count(given), most, rng)
    return list(zip(numbers_at(given, places), numbers_at(answer, places), strict=True))
