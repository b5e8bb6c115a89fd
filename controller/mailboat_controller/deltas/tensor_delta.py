"""Building ``tensor-delta/1``, and without a base ``full-planes/1``.

What a device will need first stands first: the encoder walks through the frames as the device
will, and notes which block of which stream it asks for next.
"""

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from mailboat_controller.deltas.alignment import program_of
from mailboat_controller.deltas.blocks import Bytes, pack
from mailboat_controller.deltas.numbers import planes
from mailboat_controller.deltas.patch import NotToBePatched, Patch
from mailboat_schemas.tensor_program import (
    BLOCK_BYTES,
    PROGRAM_BYTES_MAX,
    STEPS_MAX,
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
_FRAMES_AT_ONCE = 32  # may wait for a thread that packs them, 1 MiB each


def build_tensor_delta(base: Bytes, target: Bytes) -> Patch:
    """The same bytes each time, for the same versions of numpy, zstd and liblzma.

    ``base`` is empty for ``full-planes/1``. Both may be mapped files: they are read in pieces, and
    what is held is the patch.

    Raises:
        NotToBePatched: the target is empty, or nothing but small changes all over.
    """
    if not target.size:
        raise NotToBePatched("the target is empty")
    steps = program_of(base, target)
    program = encode_program(steps)
    if len(steps) > STEPS_MAX or len(program) > PROGRAM_BYTES_MAX:
        raise NotToBePatched(f"it would take {len(steps)} steps")
    head = Header(len(steps), len(program)).encode()
    head += pack(np.frombuffer(program, np.uint8), text=True)
    lengths = stream_lengths(steps)
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="delta") as packers:
        content = head + b"".join(_blocks(base, target, steps, lengths, packers))
    held = sum(min(BLOCK_BYTES, length) for length in lengths.values())
    return Patch(content, held + FRAME_MEMORY_BYTES)


class _Outgoing:
    """One stream: what is put in leaves in blocks, which are packed as soon as they are full."""

    def __init__(self, stream: Stream, length: int, packers: ThreadPoolExecutor) -> None:
        self._is_text = stream[0] is Mode.LITERAL
        self._packers = packers
        self._unasked = self._unfilled = length
        self._ahead_bytes = 0  # of the blocks that the device has, beyond what it has used
        self._waiting: list[Bytes] = []
        self._waiting_bytes = 0
        self.packed: deque[Future[bytes]] = deque()

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
            self.packed.append(self._packers.submit(pack, block, text=self._is_text))


def _blocks(
    base: Bytes,
    target: Bytes,
    steps: list[Step],
    lengths: dict[Stream, int],
    packers: ThreadPoolExecutor,
) -> list[bytes]:
    """All blocks, in the order in which the device asks for them."""
    streams = {key: _Outgoing(key, length, packers) for key, length in lengths.items()}
    order: list[Stream] = []
    offset = 0
    for number, frame in enumerate(frames(steps)):
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
        if number % _FRAMES_AT_ONCE == 0:
            for outgoing in streams.values():
                for packing in outgoing.packed:
                    packing.result()
    return [streams[stream].packed.popleft().result() for stream in order]


def _bytes(content: Bytes, offset: int, length: int) -> Bytes:
    return content[offset : offset + length]
