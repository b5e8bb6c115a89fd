"""Requests and answers with binary tensors. Those in JSON alone are in test_tensors."""

import json
import math
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailboat_agent.serving.front.answers import Problem
from mailboat_agent.serving.front.encodings import coding_of, pack, unpack, wanted
from mailboat_agent.serving.front.options import Options, read_options
from mailboat_agent.serving.json_tensors import (
    JSON_ELEMENTS_AT_ONCE,
    NonFiniteOutput,
    json_of_tensor,
    tensor_of_json,
    tensor_of_values,
)
from mailboat_agent.serving.protocol import (
    TIMEOUT_MICROSECONDS_MAX,
    InferenceRequest,
    inference_answer,
    parse_request,
)
from mailboat_agent.serving.tensors import (
    ELEMENTS_MAX,
    NAME_CHARS_MAX,
    TENSOR_BYTES_MAX,
    BadTensors,
    Tensor,
)
from mailboat_schemas.documents.serving_policy import Workload

MIB = 1 << 20


def binary(*tensors: dict[str, Any], data: bytes = b"", **more: Any) -> tuple[bytearray, int]:
    head = json.dumps({"inputs": list(tensors), **more}).encode()
    return bytearray(head + data), len(head)


def entry(size: Any, shape: Any = (2,), datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    parameters = {"binary_data_size": size}
    shaped = {"name": "x", "shape": list(shape), "datatype": datatype, "parameters": parameters}
    return shaped | more


def test_binary_tensors_are_views_of_the_body() -> None:
    numbers = np.array([1.5, math.nan], "<f4").tobytes()
    named = entry(3, (3,), "UINT8", name="u")
    body, json_bytes = binary(entry(8), named, data=numbers + b"\1\2\3")

    request = parse_request(body, json_bytes)

    x, u = request.inputs
    assert bytes(x.data) == numbers
    assert u.values() == (1, 2, 3)
    assert isinstance(x.data, memoryview)
    assert x.data.obj is body


def test_json_and_binary_tensors_may_stand_in_one_request() -> None:
    flat = {"name": "j", "shape": [1], "datatype": "INT8", "data": [7]}
    body, json_bytes = binary(flat, entry(8), data=bytes(8))

    assert [each.values() for each in parse_request(body, json_bytes).inputs] == [(7,), (0.0, 0.0)]


@pytest.mark.parametrize(
    ("tensor", "data", "reason"),
    [
        (entry(8), bytes(7), "8 bytes, 7 are left"),
        (entry(7), bytes(7), "7 bytes, its shape"),
        (entry(12), bytes(12), "12 bytes, its shape"),
        (entry(8), bytes(9), "1 bytes follow"),
        (entry(-8), bytes(8), "not a number of bytes"),
        (entry(8.0), bytes(8), "not a number of bytes"),
        (entry(True), bytes(1), "not a number of bytes"),
        (entry("8"), bytes(8), "not a number of bytes"),
        (entry(1 << 70), bytes(8), "not a number of bytes"),
        (entry(TENSOR_BYTES_MAX), bytes(8), "are left"),
        (entry(TENSOR_BYTES_MAX + 1), bytes(8), "33554432 at most"),
        (entry(8, parameters=[8]), bytes(8), "not an object"),
        (entry(8, parameters={"shared_memory_region": "r"}), bytes(8), "shared memory"),
        (entry(8, data=[1, 2]), bytes(8), "'data' too"),
        (entry(8, [1 << 62, 1 << 62]), bytes(8), "more than"),
        (entry(8, [1 << 63, 2]), bytes(8), "more than"),
        (entry(0, [0, 1 << 62]), b"", "more than"),
        (entry(8, [-2, -1]), bytes(8), "from 0 on"),
        (entry(8, [ELEMENTS_MAX + 1]), bytes(8), "more than"),
        (entry(2, [2], "BOOL"), b"\1\2", "other than 0 and 1"),
        (entry(5, [1], "BYTES"), b"\2\0\0\0a", "not BYTES"),
        (entry(5, [2], "BYTES"), b"\1\0\0\0a", "1 elements"),
        (entry(5, [1], "BYTES"), b"\1\0\0\0\xff", "not BYTES"),
        (entry(2, [1], "BYTES"), b"\1\0", "not BYTES"),
    ],
)
def test_binary_data_that_are_not_what_is_announced(
    tensor: dict[str, Any], data: bytes, reason: str
) -> None:
    body, json_bytes = binary(tensor, data=data)

    with pytest.raises(BadTensors, match=reason):
        parse_request(body, json_bytes)


def test_json_that_is_announced_longer_than_the_body_is_refused() -> None:
    with pytest.raises(BadTensors, match="9 bytes of 2"):
        parse_request(b"{}", 9)


@given(st.binary(max_size=60), st.integers(0, 100))
def test_no_binary_request_does_more_than_be_refused(body: bytes, json_bytes: int) -> None:
    with pytest.raises(BadTensors):
        parse_request(body, json_bytes)


def test_tensors_without_elements_are_tensors() -> None:
    body, json_bytes = binary(entry(0, [0, 4]))

    (x,) = parse_request(body, json_bytes).inputs
    assert (x.shape, x.values()) == ((0, 4), ())
    assert tensor_of_json(json.loads(json_of_tensor(x))) == Tensor("x", "FP32", (0, 4), b"")


# --- half precision ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, -1.0, 3.140625, 2.0**-133, 3.3895313892515355e38])
def test_bf16_is_the_upper_half_of_a_float(value: float) -> None:
    tensor = tensor_of_values("x", "BF16", (1,), [value])

    assert tensor.data == struct.pack("<f", value)[2:]
    assert tensor.values() == (value,)


@pytest.mark.parametrize(("value", "rounded"), [(1.00390625, 1.0), (1.01171875, 1.015625)])
def test_bf16_rounds_ties_to_even(value: float, rounded: float) -> None:
    assert tensor_of_values("x", "BF16", (1,), [value]).values() == (rounded,)


@pytest.mark.parametrize(("datatype", "value"), [("BF16", 3.4e38), ("FP16", 65520.0)])
def test_a_number_that_would_round_to_infinity_is_refused(datatype: str, value: float) -> None:
    with pytest.raises(BadTensors):
        tensor_of_values("x", datatype, (1,), [value])


def test_fp16_and_bf16_pass_as_bytes() -> None:
    body, json_bytes = binary(
        entry(4, [2], "FP16"),
        entry(4, [2], "BF16", name="b"),
        data=np.array([1, math.inf], "<f2").tobytes() + b"\x80\x3f\x00\x40",
    )
    x, b = parse_request(body, json_bytes).inputs

    assert x.values() == (1.0, math.inf)
    assert b.values() == (1.0, 2.0)


# --- answers -------------------------------------------------------------------------------------

Y = Tensor("y", "FP32", (2,), np.array([1, 2], "<f4").tobytes())
TEXT = Tensor("t", "BYTES", (1,), b"\x02\0\0\0hi")


def answer(request: InferenceRequest, *outputs: Tensor) -> tuple[dict[str, Any], bytes]:
    made = inference_answer(
        model="m", version="1.0.0", outputs=outputs, request=request, parameters={"release": "d"}
    )
    whole = b"".join(made.body)
    if made.json_bytes is None:
        return json.loads(whole), b""
    return json.loads(whole[: made.json_bytes]), whole[made.json_bytes :]


def asking(**more: Any) -> InferenceRequest:
    flat = {"name": "x", "shape": [1], "datatype": "INT8", "data": [7]}
    return parse_request(json.dumps({"inputs": [flat], **more}).encode())


def test_without_a_word_about_it_the_answer_is_json() -> None:
    content, behind = answer(asking(id="7"), Y, TEXT)

    assert behind == b""
    assert content["id"] == "7"
    assert content["parameters"] == {"release": "d"}
    assert [each["data"] for each in content["outputs"]] == [[1.0, 2.0], ["hi"]]


def test_all_outputs_may_be_asked_for_as_binary() -> None:
    content, behind = answer(asking(parameters={"binary_data_output": True}), Y, TEXT)

    assert behind == bytes(Y.data) + bytes(TEXT.data)
    assert [each["parameters"]["binary_data_size"] for each in content["outputs"]] == [8, 6]
    assert "data" not in content["outputs"][0]


def test_each_output_may_be_asked_for_as_it_is_wanted() -> None:
    request = asking(
        outputs=[
            {"name": "y", "parameters": {"binary_data": False}},
            {"name": "t", "parameters": {"binary_data": True}},
        ],
        parameters={"binary_data_output": True},
    )
    content, behind = answer(request, Y, TEXT)

    assert request.outputs == ("y", "t")
    assert content["outputs"][0]["data"] == [1.0, 2.0]
    assert behind == bytes(TEXT.data)


def test_binary_answers_carry_what_json_cannot() -> None:
    bad = Tensor("y", "FP32", (1,), np.array([np.nan], "<f4").tobytes())

    assert answer(asking(parameters={"binary_data_output": True}), bad)[1] == bad.data
    with pytest.raises(NonFiniteOutput):
        answer(asking(), bad)


@pytest.mark.parametrize(
    "more",
    [
        {"parameters": 3},
        {"parameters": {"timeout": -1}},
        {"parameters": {"timeout": "soon"}},
        {"parameters": {"priority": 1.5}},
        {"parameters": {"priority": -1}},
        {"outputs": [{"name": "y", "parameters": 3}]},
        {"outputs": [{"name": "y", "parameters": {"classification": 3}}]},
        {"outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]},
        {"outputs": [{"name": 3}]},
        {"outputs": "y"},
    ],
)
def test_parameters_that_cannot_be_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises(BadTensors):
        asking(**more)


def test_timeout_is_in_microseconds_and_priority_one_is_real_time() -> None:
    urgent = asking(parameters={"timeout": 2_500, "priority": 1})

    assert (urgent.timeout_seconds, urgent.workload) == (0.0025, Workload.REAL_TIME)
    assert asking(parameters={"priority": 2}).workload is Workload.BATCH
    silent = asking(parameters={"timeout": 0, "priority": 0})
    assert (silent.timeout_seconds, silent.workload) == (None, None)


# --- headers -------------------------------------------------------------------------------------


def test_the_options_of_a_request_are_in_its_headers() -> None:
    headers = {
        "mailboat-deadline-ms": "12.5",
        "mailboat-workload": "Batch",
        "inference-header-content-length": "40",
        "mailboat-hops": "1",
    }
    assert read_options(headers) == Options(0.0125, Workload.BATCH, 40, 1)
    assert read_options({}) == Options()
    assert read_options({"mailboat-hops": "many"}).hops > 1


@pytest.mark.parametrize(
    "headers",
    [
        {"mailboat-deadline-ms": "0"},
        {"mailboat-deadline-ms": "-1"},
        {"mailboat-deadline-ms": "nan"},
        {"mailboat-deadline-ms": "inf"},
        {"mailboat-deadline-ms": "soon"},
        {"mailboat-workload": "idle"},
        {"inference-header-content-length": "-1"},
        {"inference-header-content-length": "9" * 10},
        {"inference-header-content-length": "²"},
    ],
)
def test_a_header_that_says_nothing_sensible_is_400(headers: dict[str, str]) -> None:
    with pytest.raises(Problem) as caught:
        read_options(headers)
    assert caught.value.response.status == 400


# --- compression ---------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_what_is_packed_is_unpacked(coding: str) -> None:
    packed = pack([b"a" * 10_000, memoryview(b"bc")], coding)

    assert coding_of({"content-encoding": coding.upper()}) == coding
    assert len(packed) < 200
    assert unpack(packed, coding, 20_000) == b"a" * 10_000 + b"bc"


@pytest.mark.parametrize(
    ("body", "coding", "status"),
    [
        (pack([bytes(64 * MIB)], "gzip"), "gzip", 413),
        (pack([bytes(1001)], "deflate"), "deflate", 413),
        (pack([b"abc"], "gzip")[:-3], "gzip", 400),
        (pack([b"abc"], "gzip") * 2, "gzip", 400),
        (pack([b"abc"], "gzip") + b"x", "gzip", 400),
        (zlib.compress(b"abc"), "gzip", 400),
        (b"", "deflate", 400),
    ],
    ids=["bomb", "over", "short", "twice", "more", "other", "empty"],
)
def test_unpacking_is_bounded_and_whole(body: bytes, coding: str, status: int) -> None:
    with pytest.raises(Problem) as caught:
        unpack(body, coding, 1000)
    assert caught.value.response.status == status


def test_an_unknown_encoding_is_415_with_those_that_are_known() -> None:
    with pytest.raises(Problem) as caught:
        coding_of({"content-encoding": "br"})
    assert caught.value.response.status == 415
    assert caught.value.response.headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("", None),
        ("identity", None),
        ("br, deflate;q=0.5, gzip", "deflate"),
        ("gzip; q=0", None),
        ("GZIP", "gzip"),
    ],
)
def test_an_answer_is_packed_only_as_the_client_can_read_it(
    accepted: str, coding: str | None
) -> None:
    assert wanted({"accept-encoding": accepted}) == coding


@pytest.mark.parametrize("datatype", ["FP32", "BYTES", "BF16"])
def test_a_tensor_in_many_pieces_is_the_same_json(datatype: str) -> None:
    count = 2 * JSON_ELEMENTS_AT_ONCE + 1
    values = ["a", 'b"'] * (count // 2) + [""] if datatype == "BYTES" else [0.5] * count
    tensor = tensor_of_values("y", datatype, (count,), values)

    assert json.loads(json_of_tensor(tensor)) == {
        "name": "y", "shape": [count], "datatype": datatype, "data": values
    }  # fmt: skip


@pytest.mark.parametrize("position", [0, JSON_ELEMENTS_AT_ONCE, 2 * JSON_ELEMENTS_AT_ONCE])
def test_one_number_that_json_has_not_is_found_wherever_it_is(position: int) -> None:
    values = np.zeros(2 * JSON_ELEMENTS_AT_ONCE + 1, "<f4")
    values[position] = np.nan

    with pytest.raises(NonFiniteOutput):
        json_of_tensor(Tensor("y", "FP32", values.shape, values.tobytes()))


# --- the day a bound is reached ------------------------------------------------------------------


def test_a_timeout_has_64_bits_and_one_that_is_no_float_is_refused() -> None:
    longest = asking(parameters={"timeout": TIMEOUT_MICROSECONDS_MAX}).timeout_seconds

    assert longest == pytest.approx(1.8446744e13)
    for timeout in (TIMEOUT_MICROSECONDS_MAX + 1, 10**400):
        with pytest.raises(BadTensors, match="of 64 bits"):
            asking(parameters={"timeout": timeout})


def test_a_name_of_an_output_is_as_long_as_one_of_an_input() -> None:
    """It is repeated in the error, which should not be sixteen megabytes."""
    name = "y" * NAME_CHARS_MAX

    assert asking(outputs=[{"name": name}]).outputs == (name,)
    for wrong in (name + "y", ""):
        with pytest.raises(BadTensors, match="1 to 128"):
            asking(outputs=[{"name": wrong}])


@pytest.mark.parametrize("sequence", [1, "a"])
def test_a_model_that_remembers_nothing_is_asked_for_no_sequence(sequence: int | str) -> None:
    assert asking(parameters={"sequence_id": type(sequence)()}).inputs
    with pytest.raises(BadTensors, match="sequence"):
        asking(parameters={"sequence_id": sequence})
