"""When is a candidate's answer the same as the one that was given?"""

import math
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailboat_agent.serving.agreement import ELEMENTS_COMPARED_MAX, difference
from mailboat_agent.serving.tensors import Tensor
from mailboat_schemas.documents.live_gates import Comparison, Shadow

NAN, INF = math.nan, math.inf


def row(*values: float, name: str = "y") -> list[Tensor]:
    data = struct.pack(f"<{len(values)}f", *values)
    return [Tensor(name, "FP32", (1, len(values)), data)]


def differs(
    given: list[Tensor], answered: list[Tensor], comparison: str = "tolerance", **settings: object
) -> str:
    shadow = Shadow.model_validate({"comparison": comparison, **settings})
    return difference(given, answered, shadow, random.Random(1))


@pytest.mark.parametrize(
    ("given", "answered", "alike"),
    [
        ([1, 2], [1, 2], True),
        ([1, 2], [1.25, 2], True),  # exactly at the tolerance
        ([1, 2], [1.26, 2], False),
        ([NAN, 2], [NAN, 2], True),
        ([NAN, 2], [1, 2], False),
        ([INF, 2], [INF, 2.1], True),
        ([INF, 2], [-INF, 2], False),
    ],
)
def test_no_element_may_be_off_by_more_than_the_tolerance(
    given: list[float], answered: list[float], alike: bool
) -> None:
    assert (differs(row(*given), row(*answered), tolerance=0.25) == "") is alike


def test_the_largest_element_has_to_be_at_the_same_place() -> None:
    assert differs(row(0.1, 0.9), row(0.4, 0.6), "argmax") == ""
    found = differs(row(0.1, 0.9), row(0.6, 0.4), "argmax")
    assert found == "output 'y': row 0 has its largest at 0, not at 1"
    assert "NaN" in differs(row(0.1, 0.9), row(NAN, 0.4), "argmax")


def test_a_single_element_is_always_the_largest_so_its_value_is_compared() -> None:
    assert "off by" in differs(row(0.1), row(0.9), "argmax")


def test_the_direction_has_to_be_the_same() -> None:
    assert differs(row(1, 2, 3), row(2, 4, 6), "cosine") == ""
    assert "cosine" in differs(row(1, 0), row(0, 1), "cosine")
    assert differs(row(0, 0), row(0, 1), "cosine") == "output 'y': one of the two is zero"
    assert differs(row(1, 0), row(INF, 1), "cosine") == "output 'y': an element is not finite"


@pytest.mark.parametrize("comparison", list(Comparison))
def test_another_shape_type_text_or_no_answer_is_a_difference(comparison: str) -> None:
    text = Tensor("y", "BYTES", (1,), struct.pack("<I", 1) + b"a")
    other = Tensor("y", "BYTES", (1,), struct.pack("<I", 1) + b"b")

    assert "FP32 [1, 2] where FP32 [1, 1]" in differs(row(1), row(1, 2), comparison)
    assert "does not answer" in differs(row(1), [], comparison)
    assert differs([text], [other], comparison) == "output 'y': another text"
    assert differs([text], [text], comparison) == ""


def test_outputs_that_do_not_count_may_differ() -> None:
    given = [*row(1), *row(5, name="debug")]
    answered = [*row(1), *row(9, name="debug")]

    assert differs(given, answered, outputs=["y"]) == ""
    assert "debug" in differs(given, answered)


@given(
    st.lists(st.floats(width=32), min_size=1, max_size=64),
    st.sampled_from([Comparison.TOLERANCE, Comparison.ARGMAX]),
)
def test_an_answer_agrees_with_itself(values: list[float], comparison: Comparison) -> None:
    assert differs(row(*values), row(*values), comparison) == ""


def test_what_is_not_finite_has_no_direction_whatever_its_signs() -> None:
    for one, other in (([INF, -INF], [INF, INF]), ([NAN, 1], [1, 1]), ([1, 2], [-INF, INF])):
        found = differs(row(*one), row(*other), "cosine")
        assert found == "output 'y': an element is not finite"


def test_large_finite_numbers_have_a_direction() -> None:
    def doubles(*values: float) -> list[Tensor]:
        return [Tensor("y", "FP64", (1, len(values)), struct.pack(f"<{len(values)}d", *values))]

    assert differs(doubles(1e300, 2e300), doubles(2e300, 4e300), "cosine") == ""
    assert "cosine" in differs(doubles(1e300, 2e300), doubles(2e300, -4e300), "cosine")


def test_large_integers_that_are_the_same_as_floats_differ() -> None:
    def ids(*values: int) -> list[Tensor]:
        return [Tensor("y", "INT64", (1, len(values)), struct.pack(f"<{len(values)}q", *values))]

    assert differs(ids(2**53, 5), ids(2**53 + 1, 5), tolerance=0) != ""
    assert differs(ids(2**53, 5), ids(2**53, 5), tolerance=0) == ""


class Draws(random.Random):
    """Counts them: one for each element that is looked at in a tensor too large for all."""

    count = 0

    def random(self) -> float:
        self.count += 1
        return super().random()


@pytest.mark.parametrize("comparison", [Comparison.TOLERANCE, Comparison.COSINE])
def test_of_many_large_outputs_no_more_is_compared_than_of_one(comparison: Comparison) -> None:
    large = [0.5] * (ELEMENTS_COMPARED_MAX + 1)
    given = [each for n in range(64) for each in row(*large, name=f"y{n}")]
    answered = [each for n in range(64) for each in row(*large[1:], 0.5001, name=f"y{n}")]
    draws = Draws(1)

    assert difference(given, answered, Shadow(comparison=comparison), draws) == ""

    assert draws.count <= ELEMENTS_COMPARED_MAX
