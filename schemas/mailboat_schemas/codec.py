"""Payload bytes and back: msgpack with the contract version inside, zstd above 1 KiB.

The first byte tells the two apart: a zstd frame begins with 0x28, a msgpack map with 0x80 or above.
Bounds are checked before unpacking and while decompressing, so no payload costs more than its kind
may. Unknown keys are ignored: an old reader outlives new fields (python-tuf ADR 0008).
"""

from typing import Any, ClassVar, TypeVar

import msgpack
import zstandard
from pydantic import BaseModel, ConfigDict, ValidationError

from mailboat_schemas import CONTRACT_VERSION
from mailboat_schemas.errors import MalformedPayload, PayloadTooLarge

COMPRESS_ABOVE_BYTES = 1024
ZSTD_LEVEL = 9
ZSTD_WINDOW_BYTES_MAX = 8 << 20  # what a decoder may be asked to allocate
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class WireModel(BaseModel):
    """One kind of payload. Subclasses bound their own size, on the wire and unpacked."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    wire_bytes_max: ClassVar[int] = 64 * 1024
    unpacked_bytes_max: ClassVar[int] = 256 * 1024


Payload = TypeVar("Payload", bound=WireModel)


def encode(payload: WireModel) -> bytes:
    """The bytes that go on the wire.

    Raises:
        PayloadTooLarge: over the bound of its kind; the sender must split it.
    """
    content = {"v": CONTRACT_VERSION, **payload.model_dump(mode="python")}
    packed: bytes = msgpack.packb(content, use_bin_type=True, default=_plain)
    _bound(type(payload), len(packed), payload.unpacked_bytes_max)
    if len(packed) > COMPRESS_ABOVE_BYTES:
        packed = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(packed)
    _bound(type(payload), len(packed), payload.wire_bytes_max)
    return packed


def unpacked_size_bytes(encoded: bytes) -> int:
    """What an encoded payload takes unpacked, by its own word: only for what we encoded."""
    if encoded[:4] != _ZSTD_MAGIC:
        return len(encoded)
    try:
        return int(zstandard.frame_content_size(encoded))
    except zstandard.ZstdError:
        return len(encoded)


def decode(kind: type[Payload], payload: bytes) -> Payload:
    """Read a payload as one kind.

    Raises:
        PayloadTooLarge: over the bound of its kind, before or while decompressing.
        MalformedPayload: not of that kind, or of a contract version this program does not speak.
    """
    _bound(kind, len(payload), kind.wire_bytes_max)
    try:
        content = _unpack(kind, payload)
    except MalformedPayload:
        raise
    except (ValueError, RecursionError, MemoryError, msgpack.UnpackException) as error:
        raise _malformed(kind, f"not msgpack: {type(error).__name__}") from error
    if not isinstance(content, dict):
        raise _malformed(kind, "not a map")
    version = content.pop("v", None)
    if version != CONTRACT_VERSION:
        raise _malformed(kind, f"contract version {version!r}, this program speaks 1")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _malformed(kind, f"{place}: {first['msg']}") from error


def _unpack(kind: type[WireModel], payload: bytes) -> Any:
    if payload[:4] == _ZSTD_MAGIC:
        payload = _decompress(kind, payload)
    limit = kind.unpacked_bytes_max
    return msgpack.unpackb(
        payload,
        raw=False,
        strict_map_key=True,
        max_str_len=limit,
        max_bin_len=limit,
        max_array_len=limit,
        max_map_len=limit,
        max_ext_len=0,
    )


def _decompress(kind: type[WireModel], payload: bytes) -> bytes:
    limit = kind.unpacked_bytes_max
    reader = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX).stream_reader(
        payload
    )
    try:
        # One byte more than allowed tells a full payload from an endless one.
        unpacked = reader.read(limit + 1)
    except zstandard.ZstdError as error:
        raise _malformed(kind, f"not a zstd frame: {error}") from error
    _bound(kind, len(unpacked), limit)
    return bytes(unpacked)


def _bound(kind: type[WireModel], size_bytes: int, size_bytes_max: int) -> None:
    if size_bytes > size_bytes_max:
        raise PayloadTooLarge(kind.__name__, size_bytes, size_bytes_max)


def _malformed(kind: type[WireModel], problem: str) -> MalformedPayload:
    return MalformedPayload(
        f"This is not a {kind.__name__}: {problem[:300]}.",
        next_step="look at what the sender's version is; docs/protocol.md has an example of each.",
    )


def _plain(value: object) -> object:
    """Sets and tuples as lists; anything else has no place in a payload."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot go on the wire")
