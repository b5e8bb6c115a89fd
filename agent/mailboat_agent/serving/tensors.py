"""Tensors as plain bytes, and in the frames of a worker.

A tensor's ``data`` is what OIP's binary extension uses: little-endian elements in row-major order;
for BYTES each element is a 4-byte little-endian length and its bytes. It may be a view of a larger
buffer, such as the body of the request that brought it. No numpy here: it would cost the agent
12 MiB for a conversion that `struct` does.

Source: Open Inference Protocol v2, "Tensor Data Types" and "Tensor Data".
"""

import itertools
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeAlias

from mailboat_schemas.errors import OperatorNeeded

Buffer: TypeAlias = bytes | bytearray | memoryview  # of single bytes, contiguous

RANK_MAX = 8
TENSORS_MAX = 64
NAME_CHARS_MAX = 128
ELEMENTS_MAX = 4 << 20  # of one tensor: 32 MiB as INT64, about what a 16 MiB body can carry
VALUES_AT_ONCE = 1 << 16  # of a tensor, as objects: 2 MiB
TENSOR_BYTES_MAX = 32 << 20  # of one tensor; reached by BYTES, whose elements have no fixed size


class BadTensors(OperatorNeeded):
    """A request's tensors are not what the protocol or the model's interface asks for (4xx)."""

    code = "E-REQUEST-TENSORS"

    def __init__(self, what: str) -> None:
        super().__init__(what, next_step="compare the request with the model's metadata.")


@dataclass(frozen=True, slots=True)
class Datatype:
    """``code`` is the struct format of one element, empty for BYTES.

    BF16 is packed and unpacked as its 16 bits: the upper half of an FP32.
    """

    code: str
    json_types: frozenset[type]
    item_bytes: int  # 0 for BYTES


def _datatype(code: str, json_types: frozenset[type]) -> Datatype:
    return Datatype(code, json_types, struct.calcsize(f"<{code}"))


_NUMBER: frozenset[type] = frozenset({int, float})  # JSON `true` is a bool, so it is not among them
_INTEGER: frozenset[type] = frozenset({int})

DATATYPES: Mapping[str, Datatype] = MappingProxyType(
    {
        "BOOL": _datatype("?", frozenset({bool})),
        "UINT8": _datatype("B", _INTEGER),
        "UINT16": _datatype("H", _INTEGER),
        "UINT32": _datatype("I", _INTEGER),
        "UINT64": _datatype("Q", _INTEGER),
        "INT8": _datatype("b", _INTEGER),
        "INT16": _datatype("h", _INTEGER),
        "INT32": _datatype("i", _INTEGER),
        "INT64": _datatype("q", _INTEGER),
        "FP16": _datatype("e", _NUMBER),
        "FP32": _datatype("f", _NUMBER),
        "FP64": _datatype("d", _NUMBER),
        "BF16": _datatype("H", _NUMBER),
        "BYTES": _datatype("", frozenset({str})),
    }
)
FLOATS = frozenset({"FP16", "FP32", "FP64", "BF16"})

# The words of a release document, of OIP, and of onnxruntime for the same thing.
OIP_OF_DOCUMENT: Mapping[str, str] = MappingProxyType(
    {
        "float16": "FP16",
        "float32": "FP32",
        "float64": "FP64",
        "int8": "INT8",
        "int16": "INT16",
        "int32": "INT32",
        "int64": "INT64",
        "uint8": "UINT8",
        "uint16": "UINT16",
        "uint32": "UINT32",
        "uint64": "UINT64",
        "bool": "BOOL",
        "string": "BYTES",
    }
)


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Buffer

    def values(self) -> tuple[Any, ...]:
        """The elements in row-major order: bool, int, float, or bytes for BYTES."""
        if self.datatype == "BYTES":
            return tuple(_elements_of_bytes(self.data))
        return _unpacked(self.datatype, self.data)

    def iterate(self) -> Iterator[Any]:
        """The same one by one: as objects they would take up to fifty times as much memory."""
        if self.datatype == "BYTES":
            yield from _elements_of_bytes(self.data)
            return
        step = VALUES_AT_ONCE * DATATYPES[self.datatype].item_bytes
        view = memoryview(self.data)
        for start in range(0, len(view), step):
            yield from _unpacked(self.datatype, view[start : start + step])

    def pieces(self, elements_max: int) -> Iterator[tuple[Any, ...]]:
        """As `values`, so many at a time: a large tensor as Python's numbers is a large one."""
        if self.datatype == "BYTES":
            elements = _elements_of_bytes(self.data)
            while piece := tuple(itertools.islice(elements, elements_max)):
                yield piece
            return
        view, step = memoryview(self.data), elements_max * DATATYPES[self.datatype].item_bytes
        for start in range(0, len(view), step):
            yield replace(self, data=view[start : start + step]).values()

    def to_wire(self) -> list[Any]:
        return [self.name, self.datatype, list(self.shape), self.data]


def _unpacked(datatype: str, data: Buffer) -> tuple[Any, ...]:
    kind = DATATYPES[datatype]
    count = len(data) // kind.item_bytes
    values = struct.unpack(f"<{count}{kind.code}", data)
    if datatype != "BF16":
        return values
    wide = struct.pack(f"<{count}I", *(bits << 16 for bits in values))
    return struct.unpack(f"<{count}f", wide)


def element_count(shape: Sequence[int]) -> int:
    return math.prod(shape)


def tensor_of_wire(item: object) -> Tensor:
    """Read one tensor of a frame. The other side may be a worker that a model has taken over.

    Raises:
        ValueError: not a tensor, or data and shape do not agree.
    """
    match item:
        case [str(name), str(datatype), list(shape), bytes(data)] if datatype in DATATYPES:
            pass
        case _:
            raise ValueError("not a tensor")
    if len(shape) > RANK_MAX or any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"tensor {name!r} has the shape {shape}")
    dimensions: tuple[int, ...] = tuple(shape)
    tensor = Tensor(name, datatype, dimensions, data)
    if datatype == "BYTES":
        # Counted, not kept: elements of two bytes would be seven times as much as objects.
        held = sum(1 for _ in itertools.islice(_elements_of_bytes(data), ELEMENTS_MAX + 1))
        if held > ELEMENTS_MAX:
            raise ValueError(f"tensor {name!r} holds more than {ELEMENTS_MAX} elements")
    else:
        held, rest = divmod(len(data), DATATYPES[datatype].item_bytes)
        if rest:
            raise ValueError(f"tensor {name!r} ends within an element")
    if held != element_count(dimensions):
        raise ValueError(f"tensor {name!r} holds {held} elements, its shape says {dimensions}")
    return tensor


def _elements_of_bytes(data: Buffer) -> Iterator[bytes]:
    position = 0
    while position < len(data):
        if position + 4 > len(data):
            raise ValueError("a BYTES tensor ends within a length")
        (length,) = struct.unpack_from("<I", data, position)
        position += 4 + length
        if position > len(data):
            raise ValueError("a BYTES tensor ends within an element")
        yield bytes(data[position - length : position])
