"""Where the weights are: of well-known files exactly, of broken ones nothing, and never a crash."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailboat_controller.deltas.layouts import Tensor, tensors_of
from mailboat_schemas.tensor_program import Kind
from weights import onnx_with_hidden_tensors, safetensors, tflite, weights

WEIGHTS = weights(numbers=400)


def found(content: bytes) -> dict[bytes, Kind]:
    """The bytes of every tensor of some size, with its kind."""
    return {
        content[each.offset : each.offset + each.length]: each.kind
        for each in tensors_of(memoryview(content))
        if each.length >= 64
    }


def test_tensors_of_an_onnx_file_are_found_wherever_they_hide() -> None:
    inside = found(onnx_with_hidden_tensors(WEIGHTS))

    assert inside == {each.tobytes(): Kind.FLOAT32 for each in WEIGHTS.values()}


def test_tensors_of_a_safetensors_file_have_their_names_and_kinds() -> None:
    content = safetensors({"a": WEIGHTS["conv"], "b": WEIGHTS["bias"].astype(np.float16)})

    names = {each.name: each.kind for each in tensors_of(memoryview(content))}
    assert names == {"a": Kind.FLOAT32, "b": Kind.FLOAT16}
    assert WEIGHTS["conv"].tobytes() in found(content)


def test_tensors_of_a_tflite_file_are_found() -> None:
    assert found(tflite(WEIGHTS["conv"])) == {WEIGHTS["conv"].tobytes(): Kind.FLOAT32}


def test_two_tensors_never_overlap() -> None:
    both = {
        "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        "b": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
    }
    head = str(both).replace("'", '"').encode()
    content = struct.pack("<Q", len(head)) + head + bytes(24)

    assert [each.name for each in tensors_of(memoryview(content))] == ["a"]


def assert_within(tensors: list[Tensor], length: int) -> None:
    end = 0
    for each in tensors:
        assert end <= each.offset < each.offset + each.length <= length
        assert each.length % each.kind.width == 0
        end = each.offset + each.length


WHOLE = {
    "onnx": onnx_with_hidden_tensors(WEIGHTS),
    "safetensors": safetensors(WEIGHTS),
    "tflite": tflite(WEIGHTS["conv"]),
}


@pytest.mark.parametrize("name", WHOLE)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_broken_file_has_tensors_within_itself_or_none(name: str, data: st.DataObject) -> None:
    content = bytearray(WHOLE[name])
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, 400))] = data.draw(st.integers(0, 255))
    cut = bytes(content[: data.draw(st.integers(0, len(content)))])

    assert_within(tensors_of(memoryview(cut)), len(cut))


def test_graphs_within_graphs_without_end_are_no_layout() -> None:
    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size > 0x7F:
            length += bytes([size & 0x7F | 0x80])
            size >>= 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    graph = b""
    for _ in range(300):
        graph = field(1, field(5, field(6, graph)))  # node, attribute, graph
    assert tensors_of(memoryview(b"\x08\x08" + field(7, graph))) == []
