"""Where the weights are in a model file. Read on the server only: devices are told byte ranges.

A layout is a help and nothing depends on its being right: what a patch makes is compared with its
target by digest. A file that no parser understands has none.
"""

import struct
from collections.abc import Callable, Iterable

from mailboat_controller.deltas.layouts import onnx, safetensors, tflite
from mailboat_controller.deltas.layouts.tensors import Tensor, Unreadable

__all__ = ["Tensor", "tensors_of"]

_PARSERS: tuple[Callable[[memoryview], Iterable[Tensor]], ...] = (
    tflite.tensors,
    safetensors.tensors,
    onnx.tensors,
)


def tensors_of(content: memoryview) -> list[Tensor]:
    """In the order of the file, without overlap; none if no parser understands it."""
    for parser in _PARSERS:
        try:
            found = sorted(parser(content), key=lambda tensor: tensor.offset)
        except (Unreadable, struct.error, UnicodeDecodeError):
            continue
        if found:
            return list(_apart(found, len(content)))
    return []


def _apart(found: list[Tensor], length: int) -> Iterable[Tensor]:
    """Those within the file that do not overlap an earlier one (tflite buffers may be shared)."""
    end = 0
    for tensor in found:
        if tensor.offset >= end and tensor.length and tensor.offset + tensor.length <= length:
            yield tensor
            end = tensor.offset + tensor.length
