"""numpy's arrays in a worker, from and to what a frame says of a tensor.

Imported by workers only: numpy would cost the agent 12 MiB.
"""

from typing import Any

import numpy as np

from mailboat_agent.serving.shared_tensors import SharedByAgent
from mailboat_agent.serving.tensors import Tensor

_NUMPY_OF_OIP = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_OIP_OF_KIND = {"b1": "BOOL", "f2": "FP16", "f4": "FP32", "f8": "FP64"}
_OIP_OF_KIND |= {f"u{size}": f"UINT{8 * size}" for size in (1, 2, 4, 8)}
_OIP_OF_KIND |= {f"i{size}": f"INT{8 * size}" for size in (1, 2, 4, 8)}

Array = np.ndarray[Any, Any]


class NotATensor(Exception):
    """What the model answered cannot be said."""


def array_of_wire(item: list[Any], shared: SharedByAgent) -> Array:
    """An input. A large one is not copied: onnxruntime reads it where the agent has put it."""
    name, datatype, shape, data = item
    content = shared.view(data)
    if datatype == "BYTES":
        values = Tensor(name, datatype, tuple(shape), content).values()
        return np.array([element.decode() for element in values], dtype=object).reshape(shape)
    return np.frombuffer(content, dtype=_NUMPY_OF_OIP[datatype]).reshape(shape)


def datatype_of(array: Array) -> str:
    """In the words of OIP; empty if there is none for it."""
    if array.dtype.kind in "OUS":
        return "BYTES"
    return _OIP_OF_KIND.get(array.dtype.str[1:], "")


def wire_of_array(name: str, result: object, shared: SharedByAgent) -> list[Any]:
    """An output.

    Raises:
        NotATensor
    """
    if not isinstance(result, np.ndarray):
        raise NotATensor(f"output {name!r} is a {type(result).__name__}")
    shape = list(result.shape)
    if result.dtype.kind in "OUS":
        encoded = [str(element).encode() for element in result.ravel()]
        data = b"".join(len(element).to_bytes(4, "little") + element for element in encoded)
        return [name, "BYTES", shape, data]
    datatype = datatype_of(result)
    if not datatype:
        raise NotATensor(f"output {name!r} has the type {result.dtype}")
    flat = np.ascontiguousarray(result).reshape(-1)
    place = shared.place(flat) if result.size else None
    return [name, datatype, shape, flat.tobytes() if place is None else place]
