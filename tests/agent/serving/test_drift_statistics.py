"""How far live traffic is from what a release was built with."""

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailboat_agent.serving.drift_statistics import (
    ELEMENTS_OF_ALL_TENSORS_MAX,
    DriftStatistics,
    beyond_chance,
    population_stability,
)
from mailboat_agent.serving.tensor_samples import numbers_at, sampled_places
from mailboat_agent.serving.tensors import Tensor
from mailboat_schemas.documents.reference import Reference

# A thousand elements, evenly in (-inf, 0], (0, 1], (1, 2], (2, inf); classes 3 to 1.
REFERENCE = Reference.model_validate(
    {
        "samples": 250,
        "tensors": [
            {
                "name": "x",
                "side": "input",
                "elements": 1000,
                "edges": [0, 1, 2],
                "counts": [250, 250, 250, 250],
            },
            {"name": "y", "side": "output", "elements": 500, "classes": [150, 100]},
        ],
    }
)
counts = st.lists(st.integers(0, 10_000), min_size=4, max_size=4).filter(any)


def floats(name: str, *values: float, shape: tuple[int, ...] | None = None) -> Tensor:
    data = struct.pack(f"<{len(values)}f", *values)
    return Tensor(name, "FP32", shape or (1, len(values)), data)


def watched() -> DriftStatistics:
    return DriftStatistics(REFERENCE, random.Random(1))


@given(counts, counts)
def test_the_index_is_never_negative_the_same_both_ways_and_bounded(
    one: list[int], other: list[int]
) -> None:
    index = population_stability(one, other)

    assert 0 <= index < 19
    assert index == pytest.approx(population_stability(other, one))


@given(counts, st.integers(1, 1000))
def test_the_same_shares_have_not_shifted(histogram: list[int], factor: int) -> None:
    assert population_stability(histogram, [factor * n for n in histogram]) == pytest.approx(0)


def test_the_index_of_a_known_shift() -> None:
    # (0.75 - 0.5) * ln(0.75 / 0.5) + (0.25 - 0.5) * ln(0.25 / 0.5), worked out by hand
    assert population_stability([50, 50], [75, 25]) == pytest.approx(0.274653, abs=1e-6)


def test_an_empty_histogram_has_no_index() -> None:
    with pytest.raises(ValueError, match="empty"):
        population_stability([0, 0], [1, 1])


def test_two_samples_of_one_population_have_shifted_by_less_than_is_ever_allowed() -> None:
    rng = random.Random(7)
    apart = []
    for _ in range(200):
        one, other = [0] * 10, [0] * 10
        for _ in range(200):
            one[rng.randrange(10)] += 1
            other[rng.randrange(10)] += 1
        apart.append(beyond_chance(one, other, samples=200, requests=200))

    # A bound of 0.25 would roll none of them back; without the correction their mean is 0.09.
    assert max(apart) < 0.15
    assert sum(apart) / len(apart) < 0.03


def test_what_looks_like_the_reference_has_not_shifted() -> None:
    statistics, rng = watched(), random.Random(3)
    for _ in range(300):
        x = floats("x", *(rng.uniform(-1, 3) for _ in range(4)))
        y = floats("y", 1, 0) if rng.random() < 0.6 else floats("y", 0, 1)
        statistics.add([x], [y])

    assert {s.tensor: s.requests for s in statistics.shifts()} == {"x": 300, "y": 300}
    assert all(shift.shift < 0.05 for shift in statistics.shifts())


def test_other_inputs_and_other_answers_have_and_the_furthest_is_told_first() -> None:
    statistics = watched()
    for _ in range(300):
        statistics.add([floats("x", 9, 9, 9, 9)], [floats("y", 0, 1)])

    first, second = statistics.shifts()

    assert (first.tensor, first.side) == ("x", "input")
    assert first.shift > 5
    assert (second.tensor, second.side) == ("y", "output")
    assert second.shift > 1


def test_an_element_at_an_edge_belongs_to_the_bin_below_it() -> None:
    statistics = watched()
    for _ in range(1000):
        statistics.add([floats("x", 0, 1, 2, 3)], [])

    assert statistics.shifts()[0].shift == 0


def test_nan_is_another_population() -> None:
    statistics = watched()
    for _ in range(100):
        statistics.add([floats("x", float("nan"), 0.5, 1.5, 2.5)], [floats("y", float("nan"), 1)])

    assert [shift.tensor for shift in statistics.shifts()] == ["x"]  # no class was answered
    assert statistics.shifts()[0].shift > 1


def test_tensors_that_nobody_knows_or_that_hold_text_are_passed_over() -> None:
    statistics = watched()
    text = Tensor("x", "BYTES", (1,), struct.pack("<I", 1) + b"a")

    statistics.add([floats("z", 1.0), text], [floats("y", 1, 2, 3)])

    assert statistics.shifts() == ()


def test_of_a_large_tensor_a_bounded_number_of_elements_is_looked_at() -> None:
    tensor = floats("x", *([5.0] * 98_304))

    places = sampled_places(98_304, 1024, random.Random(1))

    assert len(numbers_at(tensor, places)) == 1024
    assert max(places) < 98_304
    # Spread over the whole, and over every remainder: no rhythm falls in with the stride.
    assert {place // 10_000 for place in places} == set(range(10))
    assert {place % 3 for place in places} == {0, 1, 2}


@pytest.mark.parametrize(
    ("datatype", "data", "expected"),
    [
        ("INT8", b"\xff\x01", [-1, 1]),
        ("BOOL", b"\x01\x00", [1, 0]),
        ("FP16", struct.pack("<2e", 0.5, -2), [0.5, -2]),
        ("BF16", struct.pack("<2H", 0x3F80, 0xC000), [1.0, -2.0]),
        ("FP64", struct.pack("<2d", 0.1, 7), [0.1, 7]),
    ],
)
def test_elements_of_every_width_are_read_at_their_place(
    datatype: str, data: bytes, expected: list[float]
) -> None:
    tensor = Tensor("t", datatype, (2,), data)

    assert numbers_at(tensor, range(2)) == expected
    assert numbers_at(tensor, [1]) == expected[1:]


def test_requests_in_which_nothing_was_found_are_no_evidence() -> None:
    statistics = watched()
    for _ in range(199):
        statistics.add([floats("x", shape=(0, 4))], [])
    assert statistics.shifts() == ()
    statistics.add([floats("x", 9)], [])

    (shift,) = statistics.shifts()

    assert shift.requests == 1


def test_a_request_of_nothing_but_nan_is_another_population() -> None:
    statistics = watched()
    for _ in range(20):
        statistics.add([floats("x", *[float("nan")] * 4)], [floats("y", *[float("nan")] * 2)])

    (shift,) = statistics.shifts()

    assert (shift.tensor, shift.requests) == ("x", 20)
    assert shift.shift > 1


class Draws(random.Random):
    """Counts them: one for each element that is looked at in a tensor too large for all."""

    count = 0

    def random(self) -> float:
        self.count += 1
        return super().random()


def test_of_many_large_tensors_no_more_is_looked_at_than_of_a_few() -> None:
    names = [f"x{n}" for n in range(64)]
    tensor = {"side": "input", "elements": 2, "edges": [0], "counts": [1, 1]}
    tensors = [{"name": name, **tensor} for name in names]
    draws = Draws(1)
    statistics = DriftStatistics(
        Reference.model_validate({"samples": 1, "tensors": tensors}), draws
    )

    statistics.add([floats(name, *([1.0] * 1024)) for name in names], [])

    assert {each.requests for each in statistics.shifts()} == {1}
    assert draws.count == ELEMENTS_OF_ALL_TENSORS_MAX
