"""Some elements of a tensor as numbers, without unpacking all of it.

Looking at live traffic must cost little: an image of 150,000 elements takes 30 ms of Python, a
thousand of its elements a third of one.
"""

import random
import struct
from collections.abc import Sequence

from mailboat_agent.serving.tensors import DATATYPES, Tensor


def sampled_places(count: int, most: int, rng: random.Random) -> Sequence[int]:
    """At most so many places out of ``count``, spread evenly; all of them where that is enough.

    One at random within each stride, so that no rhythm in the tensor (three colours, four boxes)
    falls in with the stride.
    """
    if count <= most:
        return range(count)
    stride = count / most
    return [min(count - 1, int((i + rng.random()) * stride)) for i in range(most)]


def numbers_at(tensor: Tensor, places: Sequence[int]) -> list[float]:
    """The elements at these places of a tensor that has numbers or bools.

    Integers stay what they are: as floats, two large ones (ids, hashes) could be the same.
    """
    if isinstance(places, range) and len(places) * _item_bytes(tensor) == len(tensor.data):
        return list(tensor.values())
    if tensor.datatype == "BF16":
        halves = struct.Struct("<H")
        bits = [halves.unpack_from(tensor.data, 2 * place)[0] << 16 for place in places]
        return list(struct.unpack(f"<{len(bits)}f", struct.pack(f"<{len(bits)}I", *bits)))
    element = struct.Struct(f"<{DATATYPES[tensor.datatype].code}")
    size = element.size
    return [element.unpack_from(tensor.data, size * place)[0] for place in places]


def row_at(tensor: Tensor, row: int, width: int) -> list[float]:
    """One row of the last axis, ``width`` elements wide."""
    return numbers_at(tensor, range(row * width, (row + 1) * width))


def element_count(tensor: Tensor) -> int:
    """Of a tensor that has numbers or bools."""
    return len(tensor.data) // _item_bytes(tensor)


def has_numbers(tensor: Tensor) -> bool:
    return tensor.datatype != "BYTES"


def _item_bytes(tensor: Tensor) -> int:
    return DATATYPES[tensor.datatype].item_bytes
