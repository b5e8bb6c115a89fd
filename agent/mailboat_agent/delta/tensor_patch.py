"""Applying ``tensor-delta/1`` and ``full-planes/1``: byte ranges and integer arithmetic.

The patch is read once from its beginning to its end, the base by pread at the places that the
program names, and the target comes out in frames. What is held at once is one block of each stream
and one frame, however large the files are.
"""

import os
from io import BufferedReader

import numpy as np
import numpy.typing as npt

from mailboat_agent.delta.blocks import Bytes, read_block
from mailboat_agent.delta.output import Write
from mailboat_schemas.tensor_program import (
    BLOCK_BYTES,
    HEADER_BYTES,
    Header,
    Kind,
    MalformedPatch,
    Mode,
    Step,
    Stream,
    decode_program,
    frames,
    groups,
    stream_lengths,
    streams_of,
)

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
Numbers = npt.NDArray[np.unsignedinteger]


def apply(
    base_fd: int, patch: BufferedReader, write: Write, *, base_length: int, target_length: int
) -> None:
    """``base_fd`` is not touched if ``base_length`` is 0.

    Raises:
        MalformedPatch: before or after some of the target was written.
        MemoryError
        OSError: the base or the patch cannot be read.
    """
    header = Header.decode(patch.read(HEADER_BYTES))
    steps = decode_program(
        read_block(patch, header.program_length).tobytes(),
        header.step_count,
        base_length=base_length,
        target_length=target_length,
    )
    streams = {key: _Blocks(patch, length) for key, length in stream_lengths(steps).items()}
    for frame in frames(steps):
        write(_frame(frame, base_fd, streams))
    if patch.read(1):
        raise MalformedPatch("bytes are left over behind its last block")


class _Blocks:
    """One stream: its blocks are read from the patch when they are needed, not before."""

    def __init__(self, patch: BufferedReader, length: int) -> None:
        self._patch = patch
        self._unread = length
        self._block: Bytes = np.empty(0, np.uint8)

    def take(self, count: int) -> Bytes:
        taken = np.empty(count, np.uint8)
        filled = 0
        while filled < count:
            if not self._block.size:
                length = min(BLOCK_BYTES, self._unread)
                self._block = read_block(self._patch, length)
                self._unread -= length
            part = self._block[: count - filled]
            taken[filled : filled + part.size] = part
            self._block = self._block[part.size :]
            filled += part.size
        if not self._block.size:
            self._block = np.empty(0, np.uint8)  # a view would keep the whole block
        return taken


def _frame(frame: list[Step], base_fd: int, streams: dict[Stream, _Blocks]) -> memoryview:
    starts = np.cumsum([0, *(step.length for step in frame)]).tolist()
    made = np.empty(starts[-1], np.uint8)
    places = [made[start : start + step.length] for start, step in zip(starts, frame, strict=False)]
    for place, step in zip(places, frame, strict=True):
        if step.reads_base:
            _read_base(base_fd, place, step.base_offset)
    for mode, kind, indices in groups(frame):
        lengths = [frame[index].length for index in indices]
        based = frame[indices[0]].reads_base
        base = np.concatenate([places[index] for index in indices]) if based else None
        numbers = _numbers(mode, kind, sum(lengths) // kind.width, base, streams)
        content = numbers.view(np.uint8)
        position = 0
        for index, length in zip(indices, lengths, strict=True):
            places[index][:] = content[position : position + length]
            position += length
    return made.data


def _read_base(base_fd: int, place: Bytes, offset: int) -> None:
    rest = place.data
    while rest:
        count = os.preadv(base_fd, [rest], offset)
        if not count:
            raise MalformedPatch("the base is shorter than it was said to be")
        rest, offset = rest[count:], offset + count


def _numbers(
    mode: Mode, kind: Kind, count: int, base: Bytes | None, streams: dict[Stream, _Blocks]
) -> Numbers:
    planes = _joined(mode, kind, count, streams)
    if base is None:
        return planes if mode is Mode.LITERAL else _unrotated(planes, kind)
    before = base.view(_UNSIGNED[kind.width])
    if mode is Mode.SORTED_DELTA:
        order = exponents(before, kind).argsort(kind="stable")
        unsorted = np.empty_like(planes)
        unsorted[order] = planes
        planes = unsorted
    one = planes.dtype.type(1)
    change = (planes >> one) ^ (~(planes & one) + one)  # of zigzag, modulo 2 ** bits
    return _from_ordered(_to_ordered(before, kind) + change, kind)


def _joined(mode: Mode, kind: Kind, count: int, streams: dict[Stream, _Blocks]) -> Numbers:
    """The planes of so many numbers put together, on a little-endian machine."""
    numbers = np.zeros(count, _UNSIGNED[kind.width])
    as_bytes = numbers.view(np.uint8).reshape(count, kind.width)
    for stream in streams_of(mode, kind):
        as_bytes[:, stream[2]] = streams[stream].take(count)
    return numbers


def exponents(numbers: Numbers, kind: Kind) -> npt.NDArray[np.unsignedinteger]:
    """What `Mode.SORTED_DELTA` sorts by, in the smallest type: sorting that one is linear."""
    if kind.exponent is None:
        raise MalformedPatch("integers have no exponent")
    shift, mask = kind.exponent
    found = (numbers >> numbers.dtype.type(shift)) & numbers.dtype.type(mask)
    return found.astype(np.uint8 if mask <= 0xFF else np.uint16)


def _to_ordered(numbers: Numbers, kind: Kind) -> Numbers:
    """Bits of floats as integers in the same order: neighbours differ by one."""
    if kind.exponent is None:
        return numbers
    top = numbers.dtype.type(1 << (8 * kind.width - 1))
    return np.where(numbers & top, ~numbers, numbers | top)


def _from_ordered(numbers: Numbers, kind: Kind) -> Numbers:
    if kind.exponent is None:
        return numbers
    top = numbers.dtype.type(1 << (8 * kind.width - 1))
    return np.where(numbers & top, numbers ^ top, ~numbers)


def _unrotated(numbers: Numbers, kind: Kind) -> Numbers:
    """Back from one bit to the left, where the exponent has a byte of its own."""
    if kind.exponent is None:
        return numbers
    bits = numbers.dtype.type(8 * kind.width - 1)
    one = numbers.dtype.type(1)
    return numbers >> one | numbers << bits
