"""Applying a patch, to see that it makes the file it was built for before anybody hears of it.

Written from docs/deltas.md and apart from the decoder of devices, which this side may not import:
a mistake would have to be made twice to go unnoticed. It checks no bounds beyond those, because
what it reads was built a moment ago.
"""

import hashlib
import lzma
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import zstandard

from mailboat_schemas.patch_formats import FULL_PLANES, FULL_ZSTD, TENSOR_DELTA, ZSTD_PATCH
from mailboat_schemas.plane_blocks import (
    LZMA_FILTERS,
    RANS_CHUNK_SYMBOLS,
    RANS_SCALE,
    RANS_SCALE_BITS,
    RANS_STATE_MIN,
    SPARSE_SKIP,
    Codec,
)
from mailboat_schemas.tensor_program import (
    BLOCK_BYTES,
    HEADER_BYTES,
    Header,
    Kind,
    MalformedPatch,
    Mode,
    Stream,
    decode_program,
    frames,
    groups,
    stream_lengths,
    streams_of,
)

_READ_BYTES = 1 << 20
_WINDOW_BYTES_MAX = 1 << 27
_TABLE_BYTES = 512
Bytes = npt.NDArray[np.uint8]


def outcome_sha256(form: str, base: Path | None, patch: Path, target_length: int) -> str:
    """The sha256 in hex of what the patch makes, streaming.

    Raises:
        MalformedPatch: it makes nothing, or a file of another length.
        ValueError: there is no such format.
    """
    digest, length = hashlib.sha256(), 0
    for part in _parts(form, base, patch, target_length):
        digest.update(part)
        length += len(part)
    if length != target_length:
        raise MalformedPatch(f"it makes {length} of {target_length} bytes")
    return digest.hexdigest()


def _parts(form: str, base: Path | None, patch: Path, target_length: int) -> Iterator[bytes]:
    if form not in (FULL_ZSTD, ZSTD_PATCH, FULL_PLANES, TENSOR_DELTA):
        raise ValueError(form)
    with patch.open("rb") as opened:
        if form in (FULL_ZSTD, ZSTD_PATCH):
            yield from _zstd_parts(base if form == ZSTD_PATCH else None, opened)
        elif base is None or form == FULL_PLANES:
            yield from _tensor_parts(None, 0, opened, target_length)
        else:
            with base.open("rb") as old:
                yield from _tensor_parts(old, base.stat().st_size, opened, target_length)


def _zstd_parts(base: Path | None, patch: BinaryIO) -> Iterator[bytes]:
    prefix = None
    if base is not None:
        raw = zstandard.DICT_TYPE_RAWCONTENT
        prefix = zstandard.ZstdCompressionDict(base.read_bytes(), dict_type=raw)
    decompressor = zstandard.ZstdDecompressor(dict_data=prefix, max_window_size=_WINDOW_BYTES_MAX)
    try:
        with decompressor.stream_reader(patch) as reader:
            while part := reader.read(_READ_BYTES):
                yield part
    except zstandard.ZstdError as error:
        raise MalformedPatch(f"zstd cannot read it: {error}") from error


def _tensor_parts(
    base: BinaryIO | None, base_length: int, patch: BinaryIO, target_length: int
) -> Iterator[bytes]:
    header = Header.decode(patch.read(HEADER_BYTES))
    program = _block(patch, header.program_length).tobytes()
    steps = decode_program(
        program, header.step_count, base_length=base_length, target_length=target_length
    )
    streams = _Streams(patch, stream_lengths(steps))
    for frame in frames(steps):
        old = [_read_at(base, s.base_offset, s.length) if s.reads_base else b"" for s in frame]
        made: list[bytes] = list(old)  # copies are done with that
        for mode, kind, indices in groups(frame):
            before = b"".join(old[index] for index in indices)
            length = sum(frame[index].length for index in indices)
            content = _numbers(mode, kind, length // kind.width, before, streams)
            place = 0
            for index in indices:
                made[index] = content[place : place + frame[index].length]
                place += frame[index].length
        yield b"".join(made)
    if patch.read(1):
        raise MalformedPatch("bytes are left over behind its last block")


def _read_at(base: BinaryIO | None, offset: int, length: int) -> bytes:
    if base is None:
        raise MalformedPatch("a step reads a base, and there is none")
    base.seek(offset)
    return base.read(length)


class _Streams:
    """Blocks are in the patch in the order in which the streams run out."""

    def __init__(self, patch: BinaryIO, lengths: dict[Stream, int]) -> None:
        self._patch = patch
        self._left = dict(lengths)
        self._held = dict.fromkeys(lengths, b"")

    def take(self, stream: Stream, count: int) -> bytes:
        while len(self._held[stream]) < count:
            length = min(BLOCK_BYTES, self._left[stream])
            self._left[stream] -= length
            self._held[stream] += _block(self._patch, length).tobytes()
        taken, self._held[stream] = self._held[stream][:count], self._held[stream][count:]
        return taken


def _numbers(mode: Mode, kind: Kind, count: int, before: bytes, streams: _Streams) -> bytes:
    # Little endian, so the lowest byte is the first column.
    columns = np.zeros((count, kind.width), np.uint8)
    for stream in streams_of(mode, kind):
        columns[:, stream[2]] = np.frombuffer(streams.take(stream, count), np.uint8)
    told = columns.reshape(-1).view(f"<u{kind.width}")
    bits = np.array(8 * kind.width, told.dtype)
    one = np.array(1, told.dtype)
    if mode is Mode.LITERAL:
        return told.tobytes()
    if mode is Mode.PLANES:
        back = told if kind.exponent is None else (told >> one) | (told << (bits - one))
        return back.astype(told.dtype).tobytes()
    base = np.frombuffer(before, told.dtype)
    change = np.where(told & one, ~(told >> one), told >> one).astype(told.dtype)
    if mode is Mode.SORTED_DELTA and kind.exponent is not None:
        shift, mask = kind.exponent
        order = np.argsort((base >> told.dtype.type(shift)) & told.dtype.type(mask), kind="stable")
        in_place = np.zeros_like(change)
        in_place[order] = change
        change = in_place
    sign = one << (bits - one)
    if kind.exponent is None:
        return bytes(base + change)
    ordered = np.where(base & sign, ~base, base ^ sign) + change
    return bytes(np.where(ordered & sign, ordered ^ sign, ~ordered).astype(told.dtype))


def _block(source: BinaryIO, length: int) -> Bytes:
    codec = Codec(source.read(1)[0])
    if codec is Codec.ZERO:
        return np.zeros(length, np.uint8)
    if codec is Codec.RAW:
        return np.frombuffer(source.read(length), np.uint8)
    payload = source.read(int.from_bytes(source.read(3), "little"))
    if codec is Codec.ZSTD:
        plain = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS)
        with plain.stream_reader(payload) as reader:
            return np.frombuffer(reader.read(length), np.uint8)
    if codec is Codec.LZMA:
        unpack = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=LZMA_FILTERS)
        return np.frombuffer(unpack.decompress(payload, length), np.uint8)
    parts = BytesIO(payload)
    return _sparse(parts, length) if codec is Codec.SPARSE else _rans(parts, length)


def _sparse(parts: BinaryIO, length: int) -> Bytes:
    out = np.zeros(length, np.uint8)
    count = int.from_bytes(parts.read(3), "little")
    if not count:
        return out
    gaps = _block(parts, count).astype(np.int64)
    is_value = gaps != SPARSE_SKIP
    # A skip passes over 255 zeros; a gap over its zeros and the value behind them.
    ends = np.cumsum(np.where(is_value, gaps + 1, gaps))
    places = ends[is_value] - 1
    if places.size:
        out[places] = _block(parts, places.size)
    return out


def _rans(parts: BinaryIO, length: int) -> Bytes:
    tables, lanes = parts.read(1)[0], int.from_bytes(parts.read(2), "little")
    chunks = -(-length // RANS_CHUNK_SYMBOLS)
    side = _block(parts, tables * _TABLE_BYTES + chunks)
    low, high = np.split(side[: tables * _TABLE_BYTES].astype(np.int64), 2)
    frequencies = (low + 256 * high).reshape(tables, 256)
    table_of_chunk = side[tables * _TABLE_BYTES :]
    state = np.frombuffer(parts.read(4 * lanes), "<u4").astype(np.int64)
    words = np.frombuffer(parts.read(), "<u2").astype(np.int64)
    return _symbols(frequencies, table_of_chunk, state, words)[:length]


def _symbols(
    frequencies: npt.NDArray[np.int64],
    table_of_chunk: Bytes,
    state: npt.NDArray[np.int64],
    words: npt.NDArray[np.int64],
) -> Bytes:
    """Every lane codes a row of chunks; all lanes step together and share the words in turn."""
    lanes = len(state)
    rows = -(-len(table_of_chunk) // lanes)
    padded = np.zeros(rows * lanes, np.int64)
    padded[: len(table_of_chunk)] = table_of_chunk
    tables = padded.reshape(lanes, rows)
    starts = np.cumsum(frequencies, axis=1) - frequencies
    symbol_at = np.stack([np.repeat(np.arange(256), row) for row in frequencies])
    out = np.zeros((lanes, rows * RANS_CHUNK_SYMBOLS), np.uint8)
    used = 0
    for step in range(out.shape[1]):
        table = tables[:, step // RANS_CHUNK_SYMBOLS]
        slot = state & (RANS_SCALE - 1)
        symbol = symbol_at[table, slot]
        out[:, step] = symbol
        state = frequencies[table, symbol] * (state >> RANS_SCALE_BITS)
        state += slot - starts[table, symbol]
        empty = np.flatnonzero(state < RANS_STATE_MIN)
        if used + empty.size > words.size:
            raise MalformedPatch("its words run out")
        state[empty] = (state[empty] << 16) | words[used : used + empty.size]
        used += empty.size
    if used != words.size or (state != RANS_STATE_MIN).any():
        raise MalformedPatch("words are left over")
    return out.reshape(-1)
