"""Tensors as the client gives and takes them: numbers, text, or numpy's arrays."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from .errors import ClientError

# Of the protocol: struct format and numpy's name. BYTES has elements of any length.
_DATATYPES = {
    "BOOL": ("?", "?"),
    "UINT8": ("B", "u1"),
    "UINT16": ("H", "<u2"),
    "UINT32": ("I", "<u4"),
    "UINT64": ("Q", "<u8"),
    "INT8": ("b", "i1"),
    "INT16": ("h", "<i2"),
    "INT32": ("i", "<i4"),
    "INT64": ("q", "<i8"),
    "FP16": ("e", "<f2"),
    "FP32": ("f", "<f4"),
    "FP64": ("d", "<f8"),
}
_DATATYPE_OF_NUMPY = {name.lstrip("<"): datatype for datatype, (_, name) in _DATATYPES.items()}
_DATATYPE_OF_NUMPY |= {"b1": "BOOL"}


@dataclass(frozen=True)
class Array:
    """A tensor: ``data`` are its elements, little-endian and row by row."""

    datatype: str
    shape: tuple[int, ...]
    data: bytes | bytearray | memoryview

    @classmethod
    def of(cls, datatype: str, shape: Sequence[int], values: Sequence[Any]) -> Self:
        """Of numbers, or of text or bytes where the datatype is BYTES."""
        if datatype == "BYTES":
            encoded = [each.encode() if isinstance(each, str) else each for each in values]
            data = b"".join(struct.pack("<I", len(each)) + each for each in encoded)
        else:
            data = struct.pack(f"<{len(values)}{_code(datatype)[0]}", *values)
        return cls(datatype, tuple(shape), data)

    @classmethod
    def of_numpy(cls, array: Any) -> Self:
        if array.dtype.kind in "OUS":
            return cls.of("BYTES", array.shape, array.ravel().tolist())
        datatype = _DATATYPE_OF_NUMPY.get(array.dtype.str[1:])
        if datatype is None:
            raise ClientError(f"An array of {array.dtype} has no datatype of the protocol.")
        return cls(datatype, array.shape, array.astype(_DATATYPES[datatype][1]).tobytes())

    def values(self) -> tuple[Any, ...]:
        """Row by row; bytes for BYTES."""
        if self.datatype == "BYTES":
            return tuple(_elements(self.data))
        code, _ = _code(self.datatype)
        return struct.unpack(f"<{len(self.data) // struct.calcsize(f'<{code}')}{code}", self.data)

    def numpy(self) -> Any:
        """A read-only view where that is possible."""
        import numpy as np

        if self.datatype == "BYTES":
            array = np.array(self.values(), dtype=object)
        else:
            array = np.frombuffer(self.data, dtype=_code(self.datatype)[1])
        return array.reshape(self.shape)


def _code(datatype: str) -> tuple[str, str]:
    """
    Raises:
        ClientError: no numbers of Python or numpy; their bytes are there.
    """
    if datatype not in _DATATYPES:
        raise ClientError(f"Elements of {datatype} cannot be read here, 'data' has their bytes.")
    return _DATATYPES[datatype]


def _elements(data: bytes | bytearray | memoryview) -> list[bytes]:
    found, position = [], 0
    while position < len(data):
        (length,) = struct.unpack_from("<I", data, position)
        position += 4 + length
        found.append(bytes(data[position - length : position]))
    return found
