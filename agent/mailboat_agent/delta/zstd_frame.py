"""Decoding of ``zstd-patch/1`` and ``full-zstd/1``: one zstd frame, with or without a prefix."""

import mmap
from io import BufferedReader

import zstandard

from mailboat_agent.delta.exit_status import LENGTH, MALFORMED, MEMORY, WINDOW
from mailboat_agent.delta.output import Write
from mailboat_schemas.patch_formats import FULL_ZSTD_WINDOW_BYTES_MAX, ZSTD_PATCH_WINDOW_BYTES_MAX

READ_BYTES = 256 << 10
_MAGIC = b"\x28\xb5\x2f\xfd"
_HEADER_BYTES_MAX = 18  # of a frame. Source: RFC 8878, section 3.1.1.1
_WINDOW_BYTES_MIN = 1 << 10
_LIMIT_MESSAGES = ("memory", "allocat")  # how zstandard words that malloc refused


def decode(
    base: mmap.mmap | None, patch: BufferedReader, write: Write, *, target_length: int
) -> int:
    """The exit status. ``target_length`` is the signed one, in bytes."""
    header = patch.peek(_HEADER_BYTES_MAX)[:_HEADER_BYTES_MAX]
    if not header.startswith(_MAGIC):
        return MALFORMED
    try:
        frame = zstandard.get_frame_parameters(header)
    except zstandard.ZstdError:
        return MALFORMED
    if frame.content_size != target_length:
        return LENGTH
    window_bytes_max = window_allowed(len(base) if base is not None else 0, target_length)
    if base is None:
        window_bytes_max = min(window_bytes_max, FULL_ZSTD_WINDOW_BYTES_MAX)
    if frame.window_size > window_bytes_max:
        return WINDOW
    try:
        decompressor = zstandard.ZstdDecompressor(
            dict_data=_prefix(base), max_window_size=window_bytes_max
        )
        with decompressor.stream_reader(patch, read_size=READ_BYTES) as reader:
            while chunk := reader.read(READ_BYTES):
                write(chunk)
    except MemoryError:
        return MEMORY
    except zstandard.ZstdError as error:
        out_of_memory = any(words in str(error).lower() for words in _LIMIT_MESSAGES)
        return MEMORY if out_of_memory else MALFORMED
    return 0


def _prefix(base: mmap.mmap | None) -> zstandard.ZstdCompressionDict | None:
    if base is None:
        return None
    with memoryview(base) as view:
        prefix = zstandard.ZstdCompressionDict(view, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    base.close()  # it was copied: two of it and the outcome would be too much at once
    return prefix


def window_allowed(base_length: int, target_length: int) -> int:
    """Bytes a frame may ask for: the next power of two that spans both files, at most 128 MiB."""
    span = 1 << (max(_WINDOW_BYTES_MIN, base_length + target_length) - 1).bit_length()
    return min(span, ZSTD_PATCH_WINDOW_BYTES_MAX)
