"""TensorFlow Lite: a flatbuffer whose tensors point to buffers.

Source: tensorflow/lite/schema/schema.fbs; FlatBuffers, "Internals".
"""

import struct
from collections.abc import Iterator

from mailboat_controller.deltas.layouts.tensors import Names, Tensor, Unreadable, tensor
from mailboat_schemas.tensor_program import Kind

IDENTIFIER = b"TFL3"
TABLES_MAX = 1 << 20  # of tensors or buffers in one file
_SUBGRAPHS, _BUFFERS = 2, 4  # fields of Model
_TENSORS = 0  # of SubGraph
_TYPE, _BUFFER, _NAME = 1, 2, 3  # of Tensor
_DATA, _OFFSET, _SIZE = 0, 1, 2  # of Buffer; the latter two since files may be over 2 GB
_KINDS = {  # TensorType
    0: Kind.FLOAT32,
    1: Kind.FLOAT16,
    2: Kind.INT32,
    7: Kind.INT16,
    10: Kind.FLOAT64,
    15: Kind.INT32,
    16: Kind.INT16,
    18: Kind.BFLOAT16,
}


def tensors(content: memoryview) -> Iterator[Tensor]:
    """
    Raises:
        Unreadable
        struct.error: it points outside of itself.
    """
    if bytes(content[4:8]) != IDENTIFIER:
        raise Unreadable
    flat = _Flat(content)
    model = flat.follow(0)
    buffers = [flat.buffer(table) for table in flat.tables(model, _BUFFERS)]
    names, seen = Names(), set()
    for graph in flat.tables(model, _SUBGRAPHS):
        for table in flat.tables(graph, _TENSORS):
            index = flat.number(table, _BUFFER, "<I")
            if index in seen or index >= len(buffers):
                continue
            seen.add(index)
            kind = _KINDS.get(flat.number(table, _TYPE, "<b"), Kind.BYTES)
            begin, length = buffers[index]
            if length:
                yield tensor(names.take(flat.text(table, _NAME)), kind, begin, length)


class _Flat:
    """Reading by position. Every read is checked by `struct` against the end of the file."""

    def __init__(self, content: memoryview) -> None:
        self._content = content

    def follow(self, position: int) -> int:
        """Where the relative offset that stands there points to."""
        value: int = struct.unpack_from("<I", self._content, position)[0]
        return position + value

    def _field(self, table: int, field: int) -> int | None:
        back: int = struct.unpack_from("<i", self._content, table)[0]
        entries = table - back
        if entries < 0:
            raise Unreadable
        size: int = struct.unpack_from("<H", self._content, entries)[0]
        place = 4 + 2 * field
        if place + 2 > size:
            return None
        offset: int = struct.unpack_from("<H", self._content, entries + place)[0]
        return table + offset if offset else None

    def number(self, table: int, field: int, form: str) -> int:
        position = self._field(table, field)
        if position is None:
            return 0
        value: int = struct.unpack_from(form, self._content, position)[0]
        return value

    def _vector(self, table: int, field: int) -> tuple[int, int]:
        """Where its elements begin, and how many there are."""
        position = self._field(table, field)
        if position is None:
            return 0, 0
        start = self.follow(position)
        count: int = struct.unpack_from("<I", self._content, start)[0]
        return start + 4, count

    def tables(self, table: int, field: int) -> list[int]:
        start, count = self._vector(table, field)
        if count > TABLES_MAX:
            raise Unreadable
        return [self.follow(start + 4 * index) for index in range(count)]

    def text(self, table: int, field: int) -> str:
        start, count = self._vector(table, field)
        return bytes(self._content[start : start + count]).decode(errors="replace")

    def buffer(self, table: int) -> tuple[int, int]:
        offset, size = self.number(table, _OFFSET, "<Q"), self.number(table, _SIZE, "<Q")
        return (offset, size) if offset > 1 else self._vector(table, _DATA)
