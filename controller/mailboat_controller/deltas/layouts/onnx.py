"""ONNX: a walk over the protobuf that finds every tensor's bytes where they stand in the file.

Tensors hide: in the sub-graphs of If and Loop, in attributes of Constant nodes, in functions, and
in ``float_data`` instead of ``raw_data``. Nothing is unpacked, so 2 GB take milliseconds.

Source: onnx/onnx.proto; protobuf, "Encoding".
"""

from collections.abc import Iterator
from enum import Enum

from mailboat_controller.deltas.layouts.tensors import Names, Tensor, Unreadable, tensor
from mailboat_schemas.tensor_program import Kind

DEPTH_MAX = 32  # of graphs in graphs
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES_MAX = 10


class _Message(Enum):
    MODEL = "ModelProto"
    GRAPH = "GraphProto"
    NODE = "NodeProto"
    ATTRIBUTE = "AttributeProto"
    FUNCTION = "FunctionProto"
    SPARSE = "SparseTensorProto"
    TENSOR = "TensorProto"


# Which fields hold messages that may hold tensors.
_INSIDE = {
    _Message.MODEL: {7: _Message.GRAPH, 25: _Message.FUNCTION},
    _Message.GRAPH: {1: _Message.NODE, 5: _Message.TENSOR, 15: _Message.SPARSE},
    _Message.NODE: {5: _Message.ATTRIBUTE},
    _Message.ATTRIBUTE: {
        5: _Message.TENSOR,
        6: _Message.GRAPH,
        10: _Message.TENSOR,
        11: _Message.GRAPH,
        22: _Message.SPARSE,
    },
    _Message.FUNCTION: {7: _Message.NODE},
    _Message.SPARSE: {1: _Message.TENSOR, 2: _Message.TENSOR},
}
_NAME_FIELDS = {_Message.GRAPH: 2, _Message.NODE: 2, _Message.ATTRIBUTE: 1, _Message.FUNCTION: 1}
# TensorProto.DataType of raw_data; what is not here is bytes.
_RAW_KINDS = {
    1: Kind.FLOAT32,
    4: Kind.INT16,
    5: Kind.INT16,
    6: Kind.INT32,
    10: Kind.FLOAT16,
    11: Kind.FLOAT64,
    12: Kind.INT32,
    16: Kind.BFLOAT16,
}
_DATA_TYPE, _FLOAT_DATA, _NAME, _RAW_DATA, _DOUBLE_DATA = 2, 4, 8, 9, 10
_OPSET_IMPORT, _OPSET_DOMAIN, _OPSET_VERSION = 8, 1, 2  # of ModelProto; of OperatorSetIdProto
_IR_VERSION_TAG = 0x08  # what every ModelProto begins with, written by anybody


def tensors(content: memoryview) -> Iterator[Tensor]:
    """
    Raises:
        Unreadable
    """
    if not len(content) or content[0] != _IR_VERSION_TAG:
        raise Unreadable
    yield from _walk(content, 0, len(content), _Message.MODEL, "", Names(), DEPTH_MAX)


def opset(content: memoryview) -> int | None:
    """The version of the standard operators that a model asks for; None where it does not say.

    Raises:
        Unreadable
    """
    for number, wire, begin, end in _fields(content, 0, len(content)):
        if (number, wire) == (_OPSET_IMPORT, _BYTES):
            domain, version = b"", None
            for inner, inner_wire, start, stop in _fields(content, begin, end):
                if (inner, inner_wire) == (_OPSET_DOMAIN, _BYTES):
                    domain = bytes(content[start:stop])
                elif (inner, inner_wire) == (_OPSET_VERSION, _VARINT):
                    version = start
            if domain in (b"", b"ai.onnx"):
                return version
    return None


_Field = tuple[int, int, int, int]  # number, wire type, begin and end of its content


def _walk(
    content: memoryview,
    begin: int,
    end: int,
    message: _Message,
    path: str,
    names: Names,
    depth: int,
) -> Iterator[Tensor]:
    fields = list(_fields(content, begin, end))
    if message is _Message.TENSOR:
        yield from _tensor(content, fields, path, names)
        return
    if not depth:
        raise Unreadable
    inside = _INSIDE[message]
    own = _own_name(content, fields, message)
    path = f"{path}/{own}" if own else path
    for number, wire, start, stop in fields:
        if wire == _BYTES and number in inside:
            less = depth - (inside[number] is _Message.GRAPH)
            yield from _walk(content, start, stop, inside[number], path, names, less)


def _own_name(content: memoryview, fields: list[_Field], message: _Message) -> str:
    """A node without a name is called after its first output, which is unique in its graph."""
    wanted = _NAME_FIELDS.get(message)
    if message is _Message.GRAPH or wanted is None:
        return ""  # exporters number graphs as they please
    for field in (2, wanted) if message is _Message.NODE else (wanted,):
        for number, wire, start, stop in fields:
            if number == field and wire == _BYTES:
                return bytes(content[start:stop]).decode(errors="replace")
    return ""


def _tensor(content: memoryview, fields: list[_Field], path: str, names: Names) -> Iterator[Tensor]:
    name, data_type = "", 0
    for number, wire, start, stop in fields:
        if number == _NAME and wire == _BYTES:
            name = bytes(content[start:stop]).decode(errors="replace")
        elif number == _DATA_TYPE and wire == _VARINT:
            data_type = start
    for number, wire, start, stop in fields:
        if wire != _BYTES:
            continue
        if number == _RAW_DATA:
            kind = _RAW_KINDS.get(data_type, Kind.BYTES)
        elif number == _FLOAT_DATA:
            kind = Kind.FLOAT32
        elif number == _DOUBLE_DATA:
            kind = Kind.FLOAT64
        else:
            continue
        yield tensor(names.take(f"{path}/{name}"), kind, start, stop - start)


def _fields(content: memoryview, begin: int, end: int) -> Iterator[_Field]:
    """Of a number, its value stands in the place of ``begin``."""
    position = begin
    while position < end:
        key, position = _varint(content, position, end)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(content, position, end)
            yield number, wire, value, position
            continue
        if wire == _BYTES:
            length, position = _varint(content, position, end)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise Unreadable
        if length > end - position:
            raise Unreadable
        yield number, wire, position, position + length
        position += length


def _varint(content: memoryview, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * _VARINT_BYTES_MAX, 7):
        if position >= end:
            break
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise Unreadable
