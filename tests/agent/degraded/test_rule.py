import pytest

from mailboat_agent.degraded.rule import answer_of_rule
from mailboat_agent.serving.tensors import ELEMENTS_MAX, TENSOR_BYTES_MAX, BadTensors, Tensor
from mailboat_schemas.documents.degraded_policy import FallbackOutput, FallbackRule

UNKNOWN = FallbackRule(
    outputs=(
        FallbackOutput(name="label", dtype="string", shape=(-1,), values=("unknown",)),
        FallbackOutput(name="scores", dtype="float32", shape=(-1, 2), values=(0, 0.5)),
        FallbackOutput(name="model", dtype="int64", shape=(1,), values=(-1,)),
    )
)


def rows(count: int) -> tuple[Tensor, ...]:
    return (Tensor("x", "UINT8", (count, 1), bytes(count)),)


def test_a_rule_answers_in_as_many_rows_as_it_is_asked_for() -> None:
    label, scores, model = answer_of_rule(UNKNOWN, rows(3), ())

    assert label.values() == (b"unknown",) * 3
    assert (scores.shape, scores.values()) == ((3, 2), (0.0, 0.5) * 3)
    assert (model.shape, model.values()) == ((1,), (-1,))


def test_only_the_outputs_that_are_asked_for_are_given() -> None:
    found = answer_of_rule(UNKNOWN, rows(1), ("scores",))

    assert [tensor.name for tensor in found] == ["scores"]
    with pytest.raises(BadTensors, match="no output 'z'"):
        answer_of_rule(UNKNOWN, rows(1), ("z",))


def test_a_request_of_very_many_rows_does_not_make_a_larger_answer_than_a_model_may() -> None:
    many = (Tensor("x", "UINT8", (ELEMENTS_MAX + 1,), bytes(ELEMENTS_MAX + 1)),)

    with pytest.raises(BadTensors, match="more than"):
        answer_of_rule(UNKNOWN, many, ("label",))


def test_rows_of_nothing_are_no_rows() -> None:
    """A hundred bytes would be answered with millions of rows."""
    with pytest.raises(BadTensors, match="no elements"):
        answer_of_rule(UNKNOWN, (Tensor("x", "FP32", (1_000_000, 0), b""),), ("label",))

    (label,) = answer_of_rule(UNKNOWN, (Tensor("x", "FP32", (0, 4), b""),), ("label",))
    assert (label.shape, label.data) == ((0,), b"")


def test_the_outputs_of_a_rule_are_together_no_larger_than_one_tensor_may_be() -> None:
    half = TENSOR_BYTES_MAX // 2
    long = FallbackOutput(name="a", dtype="string", shape=(-1,), values=("z" * 1020,))
    twice = FallbackRule(outputs=(long, long.model_copy(update={"name": "b"})))

    found = answer_of_rule(twice, rows(half // 1024), ())

    assert [len(each.data) for each in found] == [half, half]
    with pytest.raises(BadTensors, match="so many rows"):
        answer_of_rule(twice, rows(half // 1024 + 1), ())
