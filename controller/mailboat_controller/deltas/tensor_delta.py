"""Building ``tensor-delta/1``, and without a base ``full-planes/1``.

What a device will need first stands first: the encoder walks through the frames as the device
will, and notes which block of which stream it asks for next.
"""

from collections import defaultdict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import BinaryIO

import numpy as np

from mailboat_controller.deltas.alignment import program_of
from mailboat_controller.deltas.blocks import Bytes, pack
from mailboat_controller.deltas.numbers import planes
from mailboat_controller.deltas.patch import NotToBePatched
from mailboat_schemas.tensor_program import (
    BLOCK_BYTES,
    PROGRAM_BYTES_MAX,
    Header,
    Mode,
    Step,
    Stream,
    encode_program,
    frames,
    groups,
    stream_lengths,
    streams_of,
)

# Of a frame, its sorting and its unpacking, above a process that has numpy. Measured 17 to 22 MiB.
FRAME_MEMORY_BYTES = 26 << 20
PACKERS = (
    2  # threads. Most of packing is numpy on a few thousand numbers, which more do not speed up
)
PACKING_BLOCKS_MAX = 16  # under way at once; packing one takes up to 20 times its size in memory
KEPT_IN_MEMORY_BYTES_MAX = 32 << 20  # of packed blocks that wait for their place; then on the disk


def write_tensor_delta(base: Bytes, target: Bytes, patch: BinaryIO, scratch: Path) -> int:
    """The memory in bytes that applying it takes, above a bare process.

    ``base`` is empty for ``full-planes/1``. Both may be mapped files of any size: they are read
    in pieces, and what is held does not grow with them. ``scratch`` is a directory with as much
    room again as the patch takes. The same bytes each time, for the same versions of numpy, zstd
    and liblzma.

    Raises:
        NotToBePatched: the target is empty, or nothing but small changes all over.
        OSError: the disk.
    """
    if not target.size:
        raise NotToBePatched("the target is empty")
    steps = program_of(base, target)
    program = encode_program(steps)
    if len(program) > PROGRAM_BYTES_MAX:
        raise NotToBePatched(f"it would take {len(steps)} steps with {len(program)} bytes")
    patch.write(Header(len(steps), len(program)).encode())
    patch.write(pack(np.frombuffer(program, np.uint8), text=True))
    lengths = stream_lengths(steps)
    with (
        SpooledTemporaryFile(KEPT_IN_MEMORY_BYTES_MAX, dir=str(scratch)) as kept,
        ThreadPoolExecutor(PACKERS, thread_name_prefix="delta") as packers,
    ):
        packing = _Packing(packers, kept)
        for stream in _packed(base, target, steps, lengths, packing):
            patch.write(packing.next_of(stream))
    held = sum(min(BLOCK_BYTES, length) for length in lengths.values())
    return held + FRAME_MEMORY_BYTES


class _Packing:
    """Blocks are packed in the order in which they fill up, and kept until they are asked for in
    the order in which the device will want them."""

    def __init__(self, packers: ThreadPoolExecutor, kept: SpooledTemporaryFile[bytes]) -> None:
        self._packers = packers
        self._kept = kept
        self._kept_bytes = 0
        self._under_way: deque[tuple[Stream, Future[bytes]]] = deque()
        self._places: defaultdict[Stream, deque[tuple[int, int]]] = defaultdict(deque)

    def add(self, stream: Stream, block: Bytes) -> None:
        text = stream[0] is Mode.LITERAL
        self._under_way.append((stream, self._packers.submit(pack, block, text=text)))
        if len(self._under_way) >= PACKING_BLOCKS_MAX:
            self._keep_the_oldest()

    def finish(self) -> None:
        """No more is added."""
        while self._under_way:
            self._keep_the_oldest()

    def next_of(self, stream: Stream) -> bytes:
        offset, length = self._places[stream].popleft()
        self._kept.seek(offset)
        return self._kept.read(length)

    def _keep_the_oldest(self) -> None:
        stream, packing = self._under_way.popleft()
        packed = packing.result()
        self._kept.write(packed)
        self._places[stream].append((self._kept_bytes, len(packed)))
        self._kept_bytes += len(packed)


class _Outgoing:
    """One stream: what is put in leaves in blocks, which are packed as soon as they are full."""

    def __init__(self, stream: Stream, length: int, packing: _Packing) -> None:
        self._stream = stream
        self._packing = packing
        self._unasked = self._unfilled = length
        self._ahead_bytes = 0  # of the blocks that the device has, beyond what it has used
        self._waiting: list[Bytes] = []
        self._waiting_bytes = 0

    def put(self, part: Bytes) -> int:
        """How many blocks the device asks for to have all of ``part``."""
        asked = 0
        while self._ahead_bytes < part.size:
            length = min(BLOCK_BYTES, self._unasked)
            self._unasked -= length
            self._ahead_bytes += length
            asked += 1
        self._ahead_bytes -= part.size
        self._waiting.append(part)
        self._waiting_bytes += part.size
        self._pack_what_is_full()
        return asked

    def _pack_what_is_full(self) -> None:
        while self._unfilled and self._waiting_bytes >= (full := min(BLOCK_BYTES, self._unfilled)):
            content = np.concatenate(self._waiting)
            block, rest = content[:full], content[full:]
            self._waiting, self._waiting_bytes = [rest], rest.size
            self._unfilled -= full
            self._packing.add(self._stream, block)


def _packed(
    base: Bytes,
    target: Bytes,
    steps: list[Step],
    lengths: dict[Stream, int],
    packing: _Packing,
) -> list[Stream]:
    """All blocks are packed; whose they are, in the order in which the device asks for them."""
    streams = {key: _Outgoing(key, length, packing) for key, length in lengths.items()}
    order: list[Stream] = []
    offset = 0
    for frame in frames(steps):
        starts = offset + np.cumsum([0, *(step.length for step in frame)])
        for mode, kind, indices in groups(frame):
            after = [_bytes(target, int(starts[index]), frame[index].length) for index in indices]
            before = [
                _bytes(base, frame[index].base_offset, frame[index].length)
                for index in indices
                if frame[index].reads_base
            ]
            old = np.concatenate(before) if before else base[:0]
            made = planes(mode, kind, old, np.concatenate(after))
            for stream, part in zip(streams_of(mode, kind), made, strict=True):
                order += [stream] * streams[stream].put(part)
        offset = int(starts[-1])
    packing.finish()
    return order


def _bytes(content: Bytes, offset: int, length: int) -> Bytes:
    return content[offset : offset + length]
