"""``tensor-delta/1`` and ``full-planes/1``: the program of byte ranges, and the order of its data.

A patch is a header, a program, and blocks of data in the order in which they are needed. The
program makes the target from its first byte to its last; no step knows of any model format.
The target comes in frames of at most `FRAME_BYTES`, and both sides cut the program into them by
`frames`, so nothing about the order needs to be said in the patch. docs/deltas.md tells the rest.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

MAGIC = b"MBT\x01"
FRAME_BYTES = 1 << 20  # of the target at once: 256 Ki weights of 4 bytes
BLOCK_BYTES = 1 << 20  # of one stream, uncompressed; the last one of a stream is shorter
STEPS_MAX = 1 << 16  # about 10 MiB of them on the device
PROGRAM_BYTES_MAX = 1 << 20  # at most 15 bytes a step
_VARINT_BYTES_MAX = 7  # 49 bits
_HEADER = struct.Struct("<4sHI")
HEADER_BYTES = _HEADER.size


class MalformedPatch(ValueError):
    """It breaks the rules of its format. The text is for whoever built it."""


class LengthDiffers(MalformedPatch):
    """It is for a target of another length than the signed one."""


class Mode(IntEnum):
    """What one step does. The numbers are on the wire."""

    COPY = 0  # bytes of the base as they are
    LITERAL = 1  # bytes that come with the patch
    PLANES = 2  # numbers that come with the patch, without a base
    DELTA = 3  # numbers of the base, each changed by what comes with the patch
    SORTED_DELTA = 4  # likewise, in the order of the base's exponents


class Kind(IntEnum):
    """How bytes are read as numbers, little endian. The numbers are on the wire."""

    BYTES = 0
    FLOAT16 = 1
    BFLOAT16 = 2
    FLOAT32 = 3
    FLOAT64 = 4
    INT16 = 5
    INT32 = 6

    @property
    def width(self) -> int:
        """Bytes of one number."""
        return _WIDTHS[self]

    @property
    def exponent(self) -> tuple[int, int] | None:
        """Shift and mask that bring the exponent out of the bits; None for integers."""
        return _EXPONENTS.get(self)


_WIDTHS = {
    Kind.BYTES: 1,
    Kind.FLOAT16: 2,
    Kind.BFLOAT16: 2,
    Kind.FLOAT32: 4,
    Kind.FLOAT64: 8,
    Kind.INT16: 2,
    Kind.INT32: 4,
}
_EXPONENTS = {
    Kind.FLOAT16: (10, 0x1F),
    Kind.BFLOAT16: (7, 0xFF),
    Kind.FLOAT32: (23, 0xFF),
    Kind.FLOAT64: (52, 0x7FF),
}
_WITH_BASE = frozenset({Mode.COPY, Mode.DELTA, Mode.SORTED_DELTA})
_AS_BYTES = frozenset({Mode.COPY, Mode.LITERAL})


@dataclass(frozen=True, slots=True)
class Step:
    """``length`` bytes of the target; ``base_offset`` is 0 where no base is read."""

    mode: Mode
    kind: Kind
    length: int
    base_offset: int = 0

    @property
    def reads_base(self) -> bool:
        return self.mode in _WITH_BASE


Stream = tuple[Mode, Kind, int]  # the last is the plane, 0 for the lowest byte


def streams_of(mode: Mode, kind: Kind) -> tuple[Stream, ...]:
    """The streams such a step draws on, in that order: the highest byte of a number first."""
    if mode is Mode.COPY:
        return ()
    return tuple((mode, kind, plane) for plane in reversed(range(kind.width)))


def stream_lengths(steps: Sequence[Step]) -> dict[Stream, int]:
    """Bytes that each stream holds for this program."""
    lengths: dict[Stream, int] = {}
    for step in steps:
        for stream in streams_of(step.mode, step.kind):
            lengths[stream] = lengths.get(stream, 0) + step.length // step.kind.width
    return lengths


def frames(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """The program in pieces of at most `FRAME_BYTES` of the target, cut between numbers."""
    frame: list[Step] = []
    room = FRAME_BYTES
    for step in steps:
        offset = 0
        while offset < step.length:
            taken = min(room // step.kind.width * step.kind.width, step.length - offset)
            if taken:
                base_offset = step.base_offset + offset if step.reads_base else 0
                frame.append(Step(step.mode, step.kind, taken, base_offset))
            offset, room = offset + taken, room - taken
            if room < step.kind.width:
                yield frame
                frame, room = [], FRAME_BYTES
    if frame:
        yield frame


def groups(frame: Sequence[Step]) -> list[tuple[Mode, Kind, list[int]]]:
    """The steps of one frame that are decoded together, as indices, in the order of the data."""
    found: dict[tuple[Mode, Kind], list[int]] = {}
    for index, step in enumerate(frame):
        if step.mode is not Mode.COPY:
            found.setdefault((step.mode, step.kind), []).append(index)
    return [(mode, kind, found[mode, kind]) for mode, kind in sorted(found)]


@dataclass(frozen=True, slots=True)
class Header:
    """``program_length`` in bytes, before compression. The lengths of the files are signed."""

    step_count: int
    program_length: int

    def encode(self) -> bytes:
        return _HEADER.pack(MAGIC, self.step_count - 1, self.program_length)

    @classmethod
    def decode(cls, content: bytes) -> "Header":
        """
        Raises:
            MalformedPatch
        """
        if len(content) != HEADER_BYTES or not content.startswith(MAGIC):
            raise MalformedPatch("no header of this format")
        _, count, program_length = _HEADER.unpack(content)
        if not 1 <= program_length <= PROGRAM_BYTES_MAX:
            raise MalformedPatch(f"a program of {program_length} bytes")
        return cls(count + 1, program_length)


def encode_program(steps: Sequence[Step]) -> bytes:
    """Three columns, which compress better than rows: what, how many numbers, and from where.

    A place in the base is told as the change of its distance from the place in the target, which
    is none as long as nothing moved.
    """
    tags = bytes(step.mode << 4 | step.kind for step in steps)
    lengths = b"".join(_varint(step.length // step.kind.width) for step in steps)
    shifts = bytearray()
    position = shift = 0
    for step in steps:
        if step.reads_base:
            change = step.base_offset - position - shift
            shifts += _varint(change << 1 if change >= 0 else (-change << 1) - 1)
            shift += change
        position += step.length
    return tags + lengths + bytes(shifts)


def decode_program(
    content: bytes, count: int, *, base_length: int, target_length: int
) -> list[Step]:
    """``count`` steps.

    Raises:
        MalformedPatch: unless every step lies within the base.
        LengthDiffers: unless they make all of the target and nothing more.
    """
    if count > len(content):
        raise MalformedPatch("the program ends early")
    try:
        tags = [(Mode(tag >> 4), Kind(tag & 15)) for tag in content[:count]]
    except ValueError as error:
        raise MalformedPatch("a step that nobody knows") from error
    reader = _Varints(content, count)
    lengths = [reader.next() * kind.width for _, kind in tags]
    steps = []
    position = shift = 0
    for (mode, kind), length in zip(tags, lengths, strict=True):
        base_offset = 0
        if mode in _WITH_BASE:
            change = reader.next()
            shift += change >> 1 if not change & 1 else -((change + 1) >> 1)
            base_offset = position + shift
        _check(mode, kind, length, base_offset, base_length)
        steps.append(Step(mode, kind, length, base_offset))
        position += length
    if not reader.at_end:
        raise MalformedPatch("bytes are left over in the program")
    if position != target_length:
        raise LengthDiffers(f"its steps make {position} of {target_length} bytes")
    return steps


def _check(mode: Mode, kind: Kind, length: int, base_offset: int, base_length: int) -> None:
    if not length:
        raise MalformedPatch("a step that does nothing")
    if base_offset < 0 or (mode in _WITH_BASE and base_offset + length > base_length):
        raise MalformedPatch("a step that reads outside of the base")
    if mode in _AS_BYTES and kind is not Kind.BYTES:
        raise MalformedPatch("bytes that are not bytes")
    if mode is Mode.SORTED_DELTA and kind.exponent is None:
        raise MalformedPatch("integers sorted by exponent")


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    content = bytearray()
    while number > 0x7F:
        content.append(number & 0x7F | 0x80)
        number >>= 7
    content.append(number)
    return bytes(content)


class _Varints:
    def __init__(self, content: bytes, position: int) -> None:
        self._content = content
        self._position = position

    @property
    def at_end(self) -> bool:
        return self._position == len(self._content)

    def next(self) -> int:
        number = 0
        for shift in range(0, 7 * _VARINT_BYTES_MAX, 7):
            if self.at_end:
                break
            byte = self._content[self._position]
            self._position += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
        raise MalformedPatch("a number that does not end")
