"""Whether an ONNX model asks for bytes that are not in it.

A tensor may name a file, an offset and a length instead of holding its values ("external data").
Releases are single files: a model that names another one reads what nobody signed, at best. What
onnxruntime itself does about it differs from version to version and by the way a model is loaded
(1.31 looks below the working directory), so the question is settled before it sees a byte.

This walks the protobuf as far as tensors can hide in it, without a schema compiler: ``onnx`` is
larger than the agent. Source: onnx.proto, fields and wire types by number.
"""

from collections.abc import Iterator

NESTING_MAX = 64  # of subgraphs within subgraphs; a model has two or three
VARINT_BYTES_MAX = 10  # of a 64-bit number. Source: protobuf encoding

# Which field of a message holds which message that may, in the end, hold a tensor.
_HOLDS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse",
        23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
}
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
# Every external tensor has an entry with this key, and text stands in a protobuf as it is.
_KEY = b"location"


def refers_to_other_files(model: bytes) -> bool:
    """True when any tensor of the model, however deep, has its values elsewhere.

    Raises:
        ValueError: not a protobuf, or nested deeper than `NESTING_MAX`.
    """
    if _KEY not in model:
        return False  # of a gigabyte in a third of a second; most models end here
    return _any_external(memoryview(model), "model", 0)


def _any_external(message: memoryview, kind: str, depth: int) -> bool:
    if depth > NESTING_MAX:
        raise ValueError(f"messages are nested deeper than {NESTING_MAX}")
    if kind == "tensor":
        return any(
            number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value != 0)
            for number, value in fields(message)
        )
    holds = _HOLDS[kind]
    for number, value in fields(message):
        inner = holds.get(number)
        if inner is not None:
            if not isinstance(value, memoryview):
                raise ValueError(f"field {number} of a {kind} is no message")
            if _any_external(value, inner, depth + 1):
                return True
    return False


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of every field in order: a number, or the bytes of what is delimited."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        value: int | memoryview
        if wire == _VARINT:
            value, at = _varint(message, at)
        elif wire == _LENGTH:
            size, at = _varint(message, at)
            value = message[at : at + size]
            at += size
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
            value = message[at : at + size]
            at += size
        else:  # groups: ONNX has none, and they could hide a field from this walk
            raise ValueError(f"wire type {wire}")
        if number == 0 or at > end:
            raise ValueError("it ends within a field")
        yield number, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    result = 0
    for index in range(VARINT_BYTES_MAX):
        if at + index >= len(message):
            raise ValueError("it ends within a number")
        byte = message[at + index]
        result |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return result, at + index + 1
    raise ValueError("a number of more than 64 bits")
