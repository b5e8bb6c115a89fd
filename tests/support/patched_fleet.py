"""A fleet whose second release can come as a patch: models large enough for one to be worth it."""

import hashlib
import random
import struct
from typing import Any

import onnx

from mailboat_controller.deltas.zstd_patch import build_zstd_patch, describe
from mailboat_schemas.deltas import Delta
from model_fleet import ModelFleet, affine

BALLAST_BYTES = 200_000  # of every model: the same noise, which only a delta makes small


def heavy(factor: float, ballast_bytes: int = BALLAST_BYTES) -> bytes:
    """``affine`` with something in tow that does not compress."""
    model = onnx.load_model_from_string(affine(factor))
    entry = model.metadata_props.add()
    entry.key, entry.value = "ballast", random.Random(1).randbytes(ballast_bytes // 2).hex()
    content: bytes = model.SerializeToString()
    return content


def offer_patch(
    fleet: ModelFleet, base: bytes, target: bytes, patch: bytes | None = None, /, **changes: Any
) -> Delta:
    """Put a patch on the server and name it in every bundle from now on.

    ``patch`` takes the place of an honest one; ``changes`` are what the director says of it.
    """
    honest = build_zstd_patch(base, target)
    delta = describe(base, target, honest)
    content = honest.content if patch is None else patch
    named = {"patch": fleet._add(content), "patch_length": len(content)}
    delta = delta.model_copy(update=named | changes)
    fleet.deltas = (delta,)
    return delta


def frame(blocks: bytes, *, content_size: int | None, window_log: int | None = None) -> bytes:
    """A zstd frame by hand, to say what no encoder says. Source: RFC 8878, section 3.1.1.

    Without ``window_log`` it is a single segment: the window is the content.
    """
    single = window_log is None
    descriptor = (0b11 << 6 if content_size is not None else 0) | (0b10_0000 if single else 0)
    head = struct.pack("<IB", 0xFD2FB528, descriptor)
    if window_log is not None:
        head += bytes([(window_log - 10) << 3])
    if content_size is not None:
        head += struct.pack("<Q", content_size)
    return head + blocks


def zeros(length: int) -> bytes:
    """Blocks of so many zeros, 4 bytes for each 128 KiB: the densest bomb that zstd has."""
    full, rest = divmod(length, 128 << 10)
    sizes = [128 << 10] * full + ([rest] if rest else [])
    return b"".join(
        ((size << 3) | 0b010 | (number == len(sizes) - 1)).to_bytes(3, "little") + b"\0"
        for number, size in enumerate(sizes)
    )


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
