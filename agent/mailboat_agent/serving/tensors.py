"""Tensors between Open Inference Protocol JSON, plain bytes, and the frames of a worker.

A tensor's ``data`` is what OIP's binary extension uses: little-endian elements in row-major order;
for BYTES each element is a 4-byte little-endian length and its bytes. No numpy here: it would cost
the agent 12 MiB for a conversion that `struct` does.

JSON has no NaN and no infinity (RFC 8259), so an answer that holds one is an error of the model
(`NonFiniteOutput`), not a null, a string or a token that only some parsers take.

Source: Open Inference Protocol v2, "Tensor Data Types" and "Tensor Data".
"""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mailboat_schemas.errors import OperatorNeeded, ReleaseRejected

RANK_MAX = 8
TENSORS_MAX = 64
NAME_CHARS_MAX = 128
ELEMENTS_MAX = 4 << 20  # of one tensor: 32 MiB as INT64, about what a 16 MiB body can carry
TENSOR_BYTES_MAX = 32 << 20  # of one tensor; reached by BYTES, whose elements have no fixed size


class BadTensors(OperatorNeeded):
    """A request's tensors are not what the protocol or the model's interface asks for (4xx)."""

    code = "E-REQUEST-TENSORS"

    def __init__(self, what: str) -> None:
        super().__init__(what, next_step="compare the request with the model's metadata.")


class NonFiniteOutput(ReleaseRejected):
    """The model answered NaN or infinity, which JSON cannot say (5xx, counts for the release)."""

    code = "E-OUTPUT-NOT-FINITE"


@dataclass(frozen=True, slots=True)
class Datatype:
    """``code`` is the struct format of one element, empty for BYTES."""

    code: str
    json_types: frozenset[type]

    @property
    def item_bytes(self) -> int:
        return struct.calcsize(f"<{self.code}")


_NUMBER: frozenset[type] = frozenset({int, float})  # JSON `true` is a bool, so it is not among them
_INTEGER: frozenset[type] = frozenset({int})

DATATYPES: Mapping[str, Datatype] = MappingProxyType(
    {
        "BOOL": Datatype("?", frozenset({bool})),
        "UINT8": Datatype("B", _INTEGER),
        "UINT16": Datatype("H", _INTEGER),
        "UINT32": Datatype("I", _INTEGER),
        "UINT64": Datatype("Q", _INTEGER),
        "INT8": Datatype("b", _INTEGER),
        "INT16": Datatype("h", _INTEGER),
        "INT32": Datatype("i", _INTEGER),
        "INT64": Datatype("q", _INTEGER),
        "FP16": Datatype("e", _NUMBER),
        "FP32": Datatype("f", _NUMBER),
        "FP64": Datatype("d", _NUMBER),
        "BYTES": Datatype("", frozenset({str})),
    }
)
FLOATS = frozenset({"FP16", "FP32", "FP64"})

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
        "bool": "BOOL",
        "string": "BYTES",
    }
)


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes

    def values(self) -> tuple[Any, ...]:
        """The elements in row-major order: bool, int, float, or bytes for BYTES."""
        if self.datatype == "BYTES":
            return tuple(_elements_of_bytes(self.data))
        kind = DATATYPES[self.datatype]
        return struct.unpack(f"<{len(self.data) // kind.item_bytes}{kind.code}", self.data)

    def to_wire(self) -> list[Any]:
        return [self.name, self.datatype, list(self.shape), self.data]


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
        held = len(tensor.values())
    else:
        held, rest = divmod(len(data), DATATYPES[datatype].item_bytes)
        if rest:
            raise ValueError(f"tensor {name!r} ends within an element")
    if held != element_count(dimensions):
        raise ValueError(f"tensor {name!r} holds {held} elements, its shape says {dimensions}")
    return tensor


def tensor_of_values(
    name: str, datatype: str, shape: tuple[int, ...], values: Sequence[Any]
) -> Tensor:
    """Pack elements.

    Raises:
        BadTensors: an element is of the wrong type or out of range, or their number is wrong.
    """
    kind = DATATYPES[datatype]
    if len(values) != element_count(shape):
        raise BadTensors(
            f"Input {name!r} has {len(values)} elements, its shape {list(shape)} "
            f"means {element_count(shape)}."
        )
    if not kind.json_types.issuperset(map(type, values)):
        wrong = next(value for value in values if type(value) not in kind.json_types)
        raise BadTensors(
            f"Input {name!r} is {datatype} and holds {str(wrong)[:32]!r}, a {type(wrong).__name__}."
        )
    try:
        # A literal such as 1e400 is JSON, and infinite once it is read.
        if datatype in FLOATS and not all(map(math.isfinite, values)):
            raise BadTensors(f"Input {name!r} holds a number that is too large.")
        data = _pack(kind, values)
    except (struct.error, OverflowError, UnicodeEncodeError) as error:
        raise BadTensors(f"Input {name!r} does not fit in {datatype}: {error}.") from error
    if len(data) > TENSOR_BYTES_MAX:
        raise BadTensors(f"Input {name!r} is over {TENSOR_BYTES_MAX} bytes.")
    return Tensor(name, datatype, shape, data)


def _pack(kind: Datatype, values: Sequence[Any]) -> bytes:
    if kind.code:
        return struct.pack(f"<{len(values)}{kind.code}", *values)
    encoded = [text.encode() for text in values]
    return b"".join(struct.pack("<I", len(element)) + element for element in encoded)


def _elements_of_bytes(data: bytes) -> Iterator[bytes]:
    position = 0
    while position < len(data):
        if position + 4 > len(data):
            raise ValueError("a BYTES tensor ends within a length")
        (length,) = struct.unpack_from("<I", data, position)
        position += 4 + length
        if position > len(data):
            raise ValueError("a BYTES tensor ends within an element")
        yield data[position - length : position]


# --- JSON ----------------------------------------------------------------------------------------


def tensor_of_json(item: object) -> Tensor:
    """Read one entry of a request's ``inputs``; ``data`` may be flat or nested.

    Raises:
        BadTensors: says which tensor and what is wrong with it.
    """
    if not isinstance(item, dict):
        raise BadTensors("Each entry of 'inputs' is an object with name, shape, datatype and data.")
    name, datatype, data = item.get("name"), item.get("datatype"), item.get("data")
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARS_MAX:
        raise BadTensors(f"An input needs a 'name' of 1 to {NAME_CHARS_MAX} characters.")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise BadTensors(
            f"Input {name!r} has the datatype {str(datatype)[:32]!r}; "
            f"the protocol knows {', '.join(DATATYPES)}."
        )
    parameters = item.get("parameters")
    if isinstance(parameters, dict) and "binary_data_size" in parameters:
        raise BadTensors(f"Input {name!r} is announced as binary; send its 'data' as JSON.")
    if not isinstance(data, list):
        raise BadTensors(f"Input {name!r} needs 'data', an array.")
    shape = _shape_of_json(name, item.get("shape"))
    return tensor_of_values(name, datatype, shape, _flat(name, data))


def _shape_of_json(name: str, shape: object) -> tuple[int, ...]:
    if not isinstance(shape, list) or any(type(d) is not int or d < 1 for d in shape):
        raise BadTensors(f"Input {name!r} needs a 'shape', an array of positive integers.")
    if len(shape) > RANK_MAX:
        raise BadTensors(f"Input {name!r} has {len(shape)} dimensions, at most {RANK_MAX} may be.")
    if element_count(shape) > ELEMENTS_MAX:
        raise BadTensors(f"Input {name!r} has more than {ELEMENTS_MAX} elements.")
    return tuple(shape)


def _flat(name: str, data: list[Any]) -> list[Any]:
    """One level of nesting is taken off at a time, so depth costs no stack."""
    levels = 0
    while any(type(element) is list for element in data):
        levels += 1
        if levels >= RANK_MAX or not all(type(element) is list for element in data):
            raise BadTensors(f"The 'data' of input {name!r} is nested unevenly or too deeply.")
        if len({len(element) for element in data}) > 1:
            raise BadTensors(f"The 'data' of input {name!r} has rows of different lengths.")
        data = [element for row in data for element in row]
    return data


def tensor_to_json(tensor: Tensor) -> dict[str, Any]:
    """One entry of an answer's ``outputs``, flat.

    Raises:
        NonFiniteOutput: it holds NaN or infinity, or BYTES that are no UTF-8.
    """
    values = tensor.values()
    if tensor.datatype in FLOATS and not all(map(math.isfinite, values)):
        raise NonFiniteOutput(
            f"Output {tensor.name!r} holds NaN or infinity, which JSON cannot carry.",
            next_step="look at the model: it should answer with finite numbers.",
        )
    if tensor.datatype == "BYTES":
        try:
            values = tuple(element.decode() for element in values)
        except UnicodeDecodeError as error:
            raise NonFiniteOutput(
                f"Output {tensor.name!r} holds text that is no UTF-8.",
                next_step="look at the model: string outputs are UTF-8 in ONNX.",
            ) from error
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "datatype": tensor.datatype,
        "data": values,
    }
