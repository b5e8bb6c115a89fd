"""safetensors: a JSON header with every tensor's type and place, then the bytes.

Source: https://huggingface.co/docs/safetensors, "Format".
"""

import json
from collections.abc import Iterator

from mailboat_controller.deltas.layouts.tensors import Tensor, Unreadable, tensor
from mailboat_schemas.tensor_program import Kind

HEADER_BYTES_MAX = 100 << 20  # of the format itself
_KINDS = {
    "F16": Kind.FLOAT16,
    "BF16": Kind.BFLOAT16,
    "F32": Kind.FLOAT32,
    "F64": Kind.FLOAT64,
    "I16": Kind.INT16,
    "U16": Kind.INT16,
    "I32": Kind.INT32,
    "U32": Kind.INT32,
}


def tensors(content: memoryview) -> Iterator[Tensor]:
    """
    Raises:
        Unreadable
    """
    header_bytes = int.from_bytes(content[:8], "little")
    if not 2 <= header_bytes <= min(HEADER_BYTES_MAX, len(content) - 8) or content[8] != ord("{"):
        raise Unreadable
    try:
        header = json.loads(bytes(content[8 : 8 + header_bytes]))
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                kind = _KINDS.get(entry["dtype"], Kind.BYTES)
                offset = 8 + header_bytes + int(begin)
                yield tensor(name, kind, offset, int(end) - int(begin))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Unreadable from error
