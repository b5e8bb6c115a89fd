import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailboat_agent.serving.json_tensors import (
    NonFiniteOutput,
    json_of_tensor,
    tensor_of_json,
    tensor_of_values,
)
from mailboat_agent.serving.protocol import parse_request
from mailboat_agent.serving.tensors import (
    DATATYPES,
    ELEMENTS_MAX,
    BadTensors,
    Tensor,
    tensor_of_wire,
)

NUMPY = {"BOOL": "?", "FP16": "f2", "FP32": "f4", "FP64": "f8"}
NUMPY |= {f"INT{8 * n}": f"i{n}" for n in (1, 2, 4, 8)}
NUMPY |= {f"UINT{8 * n}": f"u{n}" for n in (1, 2, 4, 8)}


def entry(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4.5]} | changes


@pytest.mark.parametrize("datatype", sorted(NUMPY))
def test_the_bytes_are_those_of_numpy(datatype: str) -> None:
    array = np.array([[0, 1], [1, 1]], NUMPY[datatype])
    tensor = tensor_of_json(entry(datatype=datatype, data=array.tolist()))

    assert tensor.data == array.tobytes()
    assert json.loads(json_of_tensor(tensor))["data"] == array.ravel().tolist()


@given(st.sampled_from(sorted(DATATYPES)), st.data())
def test_a_tensor_survives_the_way_to_the_worker_and_back(datatype: str, data: Any) -> None:
    elements = {
        frozenset({bool}): st.booleans(),
        frozenset({int}): st.integers(0, 127),
        frozenset({int, float}): st.integers(-100, 100),
        frozenset({str}): st.text(max_size=5),
    }[DATATYPES[datatype].json_types]
    values = data.draw(st.lists(elements, max_size=6))
    tensor = tensor_of_values("x", datatype, (len(values),), values)

    assert tensor_of_wire(tensor.to_wire()) == tensor
    assert json.loads(json_of_tensor(tensor))["data"] == values


def test_nested_and_flat_data_are_the_same() -> None:
    assert tensor_of_json(entry(data=[[1, 2], [3, 4.5]])) == tensor_of_json(entry())


@pytest.mark.parametrize(
    "wrong",
    [
        {"datatype": "FLOAT"},
        {"datatype": ["FP32"]},
        {"datatype": None},
        {"name": ""},
        {"name": 3},
        {"shape": [2, 3]},
        {"shape": [2, -2]},
        {"shape": [2, 2.0]},
        {"shape": [True, 4]},
        {"shape": [4, 0]},
        {"shape": "22"},
        {"shape": [1] * 7 + [2, 2]},
        {"shape": [ELEMENTS_MAX, 2]},
        {"data": "1234"},
        {"data": [1, 2, 3]},
        {"data": [1, 2, 3, "4"]},
        {"data": [1, 2, 3, None]},
        {"data": [1, 2, 3, True]},
        {"data": [1, 2, [3], 4]},
        {"data": [[1, 2, 3], [4]]},
        {"data": [[[[[[[[[1, 2, 3, 4]]]]]]]]]},
        {"data": [1, 2, 3, 1e39]},
        {"data": [1, 2, 3, math.inf]},
        {"datatype": "FP16", "data": [1, 2, 3, 70000]},
        {"datatype": "INT8", "data": [1, 2, 3, 128]},
        {"datatype": "UINT8", "data": [1, 2, 3, -1]},
        {"datatype": "INT64", "data": [1, 2, 3, 4.0]},
        {"datatype": "BOOL", "data": [1, 0, 1, 0]},
        {"datatype": "BYTES", "data": ["a", "b", "c", 4]},
        {"datatype": "BYTES", "data": ["a", "b", "c", "\ud800"]},
        {"parameters": {"binary_data_size": 16}},
    ],
)
def test_a_wrong_tensor_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadTensors):
        tensor_of_json(entry(**wrong))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"{}",
        b'{"inputs": []}',
        b'{"inputs": [3]}',
        b'{"inputs": {"x": 1}}',
        b'{"inputs": [{"name":"x","shape":[1],"datatype":"FP32","data":[NaN]}]}',
        b'{"inputs": [{"name":"x","shape":[1],"datatype":"FP32","data":[1e400]}]}',
        b'{"id": 3, "inputs": [{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}',
        b'{"outputs": ["y"], "inputs": [{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}',
        b"[" * 200_000,
        b'{"inputs": [' + b"9" * 10_000 + b"]}",
    ],
)
def test_a_wrong_body_is_refused(body: bytes) -> None:
    with pytest.raises(BadTensors):
        parse_request(body)


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(body: bytes) -> None:
    with pytest.raises(BadTensors):
        parse_request(body)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_json_has_no_nan_and_no_infinity_so_neither_has_an_answer(bad: float) -> None:
    tensor = Tensor("y", "FP32", (2,), np.array([1, bad], np.float32).tobytes())

    with pytest.raises(NonFiniteOutput):
        json_of_tensor(tensor)


@pytest.mark.parametrize(
    "item",
    [
        None,
        [],
        ["x", "FP32", [1]],
        ["x", "FP99", [1], b"1234"],
        ["x", "FP32", [2], b"1234"],
        ["x", "FP32", [1], b"12345"],
        ["x", "FP32", [-1], b"1234"],
        ["x", "FP32", ["1"], b"1234"],
        ["x", "FP32", [1] * 9, b"1234"],
        ["x", "BYTES", [1], b"\x05\0\0\0abc"],
        ["x", "BYTES", [1], b"\x05\0"],
        ["x", "BYTES", [1 << 62, 1 << 62], b""],
    ],
)
def test_nonsense_from_a_worker_is_refused(item: object) -> None:
    with pytest.raises(ValueError, match=r"tensor"):
        tensor_of_wire(item)


def test_an_answer_is_strict_json() -> None:
    tensor = tensor_of_values("y", "FP32", (2,), [0.1, -3])

    assert json.loads(json_of_tensor(tensor)) == {
        "name": "y", "shape": [2], "datatype": "FP32", "data": [0.10000000149011612, -3.0]
    }  # fmt: skip


def test_elements_of_text_are_bounded_before_they_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An element of no bytes takes four in a frame and many more as an object."""
    monkeypatch.setattr("mailboat_agent.serving.tensors.ELEMENTS_MAX", 10)
    assert tensor_of_wire(["t", "BYTES", [10], bytes(40)]).shape == (10,)

    with pytest.raises(ValueError, match="more than 10 elements"):
        tensor_of_wire(["t", "BYTES", [11], bytes(44)])
