"""Unpacking of blocks: whatever a payload says, no more comes out than was asked for.

The bounds: a block is asked for by its length, at most `BLOCK_BYTES`; its payload is no longer
than it would be unpacked; nothing is allocated by a number out of a payload before it is checked.
"""

import lzma
from typing import Protocol

import numpy as np
import numpy.typing as npt
import zstandard

from mailboat_agent.delta import rans
from mailboat_schemas.plane_blocks import (
    LZMA_FILTERS,
    PAYLOAD_LENGTH_BYTES,
    RANS_LANES_MAX,
    RANS_TABLES_MAX,
    SPARSE_SHARE,
    SPARSE_SKIP,
    ZSTD_WINDOW_BYTES,
    Codec,
)
from mailboat_schemas.tensor_program import MalformedPatch

Bytes = npt.NDArray[np.uint8]
_NESTED = frozenset({Codec.RAW, Codec.ZERO, Codec.ZSTD, Codec.LZMA, Codec.RANS})
_TABLE_BYTES = 512


class Source(Protocol):
    """A file, or a `_Payload`."""

    def read(self, length: int, /) -> bytes: ...


class _Payload:
    """The payload of one block, read from its beginning."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._position = 0

    def read(self, length: int) -> bytes:
        taken = self._content[self._position : self._position + length]
        self._position += len(taken)
        return taken

    @property
    def left(self) -> int:
        return len(self._content) - self._position


def read_exactly(source: Source, length: int) -> bytes:
    content = source.read(length)
    if len(content) != length:
        raise MalformedPatch("it ends early")
    return content


def read_block(source: Source, length: int, allowed: frozenset[Codec] | None = None) -> Bytes:
    """The next block of ``source``, which unpacks to ``length`` bytes.

    Raises:
        MalformedPatch
        MemoryError
    """
    try:
        codec = Codec(read_exactly(source, 1)[0])
    except ValueError as error:
        raise MalformedPatch("a codec that nobody knows") from error
    if allowed is not None and codec not in allowed:
        raise MalformedPatch(f"{codec.name} where it may not be")
    if codec is Codec.ZERO:
        return np.zeros(length, np.uint8)
    if codec is Codec.RAW:
        return np.frombuffer(read_exactly(source, length), np.uint8)
    payload_length = _number(source, PAYLOAD_LENGTH_BYTES)
    if payload_length >= length:
        raise MalformedPatch("a payload that is longer than what is in it")
    payload = read_exactly(source, payload_length)
    if codec is Codec.ZSTD:
        return _exactly(_zstd(payload, length), length)
    if codec is Codec.LZMA:
        return _exactly(_lzma(payload, length), length)
    parts = _Payload(payload)
    block = _rans(parts, length) if codec is Codec.RANS else _sparse(parts, length)
    if parts.left:
        raise MalformedPatch("bytes are left over in a block")
    return block


def _number(source: Source, length: int) -> int:
    return int.from_bytes(read_exactly(source, length), "little")


def _exactly(content: bytes, length: int) -> Bytes:
    if len(content) != length:
        raise MalformedPatch(f"a block of {len(content)} bytes instead of {length}")
    return np.frombuffer(content, np.uint8)


def _zstd(payload: bytes, length: int) -> bytes:
    decompressor = zstandard.ZstdDecompressor(
        max_window_size=ZSTD_WINDOW_BYTES, format=zstandard.FORMAT_ZSTD1_MAGICLESS
    )
    try:
        # Not decompress(): that one allocates what the frame's own header says.
        with decompressor.stream_reader(payload) as reader:
            content: bytes = reader.read(length)
            if reader.read(1):
                raise MalformedPatch("a block is too long")
    except zstandard.ZstdError as error:
        # "Frame requires too much memory" is its window: more than any block of this format has.
        if "allocat" in str(error).lower():
            raise MemoryError from error
        raise MalformedPatch("a block that is no frame") from error
    return content


def _lzma(payload: bytes, length: int) -> bytes:
    decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=LZMA_FILTERS)
    try:
        return decompressor.decompress(payload, max_length=length)
    except lzma.LZMAError as error:
        raise MalformedPatch("a block that is no LZMA stream") from error


def _sparse(payload: _Payload, length: int) -> Bytes:
    count = _number(payload, PAYLOAD_LENGTH_BYTES)
    if count > length // SPARSE_SHARE:
        raise MalformedPatch("more gaps than a sparse block may have")
    gaps = read_block(payload, count, _NESTED) if count else np.empty(0, np.uint8)
    has_value = gaps != SPARSE_SKIP
    places = np.cumsum(gaps + has_value.astype(np.int64)) - 1
    places = places[has_value]
    block = np.zeros(length, np.uint8)
    if places.size:
        if places[-1] >= length:
            raise MalformedPatch("a value beyond the end of its block")
        block[places] = read_block(payload, places.size, _NESTED)
    return block


def _rans(payload: _Payload, length: int) -> Bytes:
    tables, lanes = _number(payload, 1), _number(payload, 2)
    chunks = rans.chunk_count(length)
    if not 1 <= tables <= RANS_TABLES_MAX or not 1 <= lanes <= min(RANS_LANES_MAX, chunks):
        raise MalformedPatch("more tables or lanes than there may be")
    side = read_block(payload, tables * _TABLE_BYTES + chunks, _NESTED - {Codec.RANS})
    split = tables * _TABLE_BYTES // 2
    low, high = side[:split].astype(np.uint16), side[split : 2 * split].astype(np.uint16)
    states = np.frombuffer(read_exactly(payload, 4 * lanes), "<u4").astype(np.uint32)
    words = np.frombuffer(read_exactly(payload, payload.left // 2 * 2), "<u2")
    return rans.decode(
        length, (low | high << np.uint16(8)).reshape(tables, 256), side[2 * split :], states, words
    )
