"""Patches that somebody made to do harm: an error, or a wrong file that its digest gives away."""

import os
import random
import threading
from pathlib import Path

import pytest
import zstandard

from mailboat_agent.delta.decoding import Decoding, decode_into
from mailboat_agent.delta.failure import DeltaFailed, Reason
from mailboat_schemas.plane_blocks import Codec
from mailboat_schemas.tensor_program import (
    BLOCK_BYTES,
    PROGRAM_BYTES_MAX,
    Header,
    Kind,
    LengthDiffers,
    MalformedPatch,
    Mode,
    Step,
    encode_program,
)
from tensor_patches import made, patch_of
from weights import fine_tuned, onnx_with_hidden_tensors, weights

SMALL = weights(numbers=2000)
BASE, TARGET = onnx_with_hidden_tensors(SMALL), onnx_with_hidden_tensors(fine_tuned(SMALL))
PATCH = patch_of(BASE, TARGET)
MIB = 1 << 20


def program(*steps: Step, blocks: bytes = b"") -> bytes:
    content = encode_program(steps)
    return Header(len(steps), len(content)).encode() + bytes([Codec.RAW]) + content + blocks


def block(codec: Codec, payload: bytes) -> bytes:
    return bytes([codec]) + len(payload).to_bytes(3, "little") + payload


def literal(length: int, packed: bytes) -> bytes:
    return program(Step(Mode.LITERAL, Kind.BYTES, length), blocks=packed)


@pytest.mark.slow
def test_a_flipped_bit_anywhere_is_an_error_or_makes_a_file_that_is_not_the_target() -> None:
    rng = random.Random(1)
    outcomes = {"refused": 0, "wrong": 0}
    places = {*range(12 * 8), *(rng.randrange(8 * len(PATCH)) for _ in range(120))}
    for place in places:
        patch = bytearray(PATCH)
        patch[place // 8] ^= 1 << place % 8
        try:
            out = made(BASE, bytes(patch), len(TARGET))
        except MalformedPatch:
            outcomes["refused"] += 1
        else:
            assert len(out) == len(TARGET)
            outcomes["wrong"] += out != TARGET  # else it was a bit that says nothing

    assert min(outcomes.values()) > 5, outcomes


def test_a_patch_that_ends_anywhere_else_is_refused() -> None:
    for end in [*range(40), *range(40, len(PATCH), 997), len(PATCH) - 1]:
        with pytest.raises(MalformedPatch):
            made(BASE, PATCH[:end], len(TARGET))
    with pytest.raises(MalformedPatch, match="left over"):
        made(BASE, PATCH + b"\0", len(TARGET))


def test_bytes_without_sense_are_refused() -> None:
    rng = random.Random(2)
    for _ in range(300):
        with pytest.raises(MalformedPatch):
            made(BASE, PATCH[:10] + rng.randbytes(rng.randrange(200)), len(TARGET))


COPY = Step(Mode.COPY, Kind.BYTES, 10, 0)


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (Step(Mode.COPY, Kind.BYTES, 10, 95), "outside of the base"),
        (Step(Mode.COPY, Kind.BYTES, 10, -1), "outside of the base"),
        (Step(Mode.COPY, Kind.BYTES, 10, 1 << 40), "outside of the base"),
        (Step(Mode.COPY, Kind.BYTES, 0, 0), "does nothing"),
        (Step(Mode.COPY, Kind.FLOAT16, 10, 0), "not bytes"),
        (Step(Mode.SORTED_DELTA, Kind.INT16, 10, 0), "integers sorted"),
        (Step(Mode.DELTA, Kind.FLOAT64, 1 << 45, 0), "outside of the base"),
        (Step(Mode.LITERAL, Kind.BYTES, 1 << 60, 0), "does not end"),
    ],
    ids=str,
)
def test_a_step_that_may_not_be_is_refused_before_anything_is_read(step: Step, why: str) -> None:
    with pytest.raises(MalformedPatch, match=why):
        made(bytes(100), program(step), 10)


def test_a_program_for_another_length_is_refused() -> None:
    for length in (9, 11):
        with pytest.raises(LengthDiffers):
            made(bytes(100), program(COPY), length)


def test_a_program_over_its_bound_is_refused() -> None:
    head = Header(1, PROGRAM_BYTES_MAX + 1).encode()
    with pytest.raises(MalformedPatch, match="program of"):
        made(bytes(100), head + bytes(100), 10)


def zstd(content: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        3, format=zstandard.FORMAT_ZSTD1_MAGICLESS
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(content)


LIES = {
    "a frame too short": (100_000, block(Codec.ZSTD, zstd(bytes(99_999))), "99999 bytes instead"),
    "a frame too long": (100_000, block(Codec.ZSTD, zstd(bytes(100_001))), "too long"),
    "a bomb": (100_000, block(Codec.ZSTD, zstd(bytes(64 * MIB))), "no frame"),
    "a huge frame": (100_000, block(Codec.ZSTD, b"\xe0" + b"\xff" * 8 + bytes(9)), "no frame"),
    "no LZMA": (100_000, block(Codec.LZMA, bytes(50)), "bytes instead|no LZMA"),
    "a payload as long as its content": (100, block(Codec.ZSTD, bytes(100)), "longer than what"),
    "more gaps than bytes": (100, block(Codec.SPARSE, b"\xff\xff\xff"), "more gaps"),
    "a value beyond the end": (
        100,
        block(Codec.SPARSE, b"\x02\0\0" + b"\0\xfe\xfe" + b"\0ab"),
        "beyond the end",
    ),
    "a sparse block in a sparse block": (
        1000,
        block(Codec.SPARSE, b"\x09\0\0" + block(Codec.SPARSE, b"\0\0\0")),
        "where it may not be",
    ),
    "no table": (5000, block(Codec.RANS, bytes(3)), "more tables or lanes"),
    "too many tables": (5000, block(Codec.RANS, b"\x11\x01\0"), "more tables or lanes"),
    "too many lanes": (5000, block(Codec.RANS, b"\x01\xff\xff"), "more tables or lanes"),
    "a table that does not sum up": (
        5000,
        block(Codec.RANS, b"\x01\x01\0" + b"\x01" + bytes(4)),
        "does not sum up",
    ),
    "a codec that nobody knows": (100, b"\x09" + bytes(50), "nobody knows"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_block_that_lies_is_refused(lie: str) -> None:
    length, packed, why = LIES[lie]
    with pytest.raises(MalformedPatch, match=why):
        made(b"", literal(length, packed), length)


# --- through the process ------------------------------------------------------------------------


def refused(
    tmp_path: Path, patch: bytes, target_length: int, memory_bytes: int = 32 * MIB
) -> Reason:
    (tmp_path / "patch").write_bytes(patch)
    (tmp_path / "base").write_bytes(BASE)
    patch_fd = os.open(tmp_path / "patch", os.O_RDONLY)
    base_fd = os.open(tmp_path / "base", os.O_RDONLY)
    bounds = Decoding(
        base_fd=base_fd,
        base_length=len(BASE),
        patch_fd=patch_fd,
        target_length=target_length,
        memory_bytes=memory_bytes,
        format="tensor-delta/1",
    )
    try:
        with pytest.raises(DeltaFailed) as raised:
            decode_into(tmp_path / "made", bounds, threading.Event())
    finally:
        os.close(patch_fd)
        os.close(base_fd)
    return raised.value.reason


def test_the_agent_is_told_what_was_wrong(tmp_path: Path) -> None:
    assert refused(tmp_path, PATCH[:-1], len(TARGET)) is Reason.PATCH_MALFORMED
    assert refused(tmp_path, PATCH, len(TARGET) + 1) is Reason.LENGTH_DIFFERS


def test_a_program_with_a_block_of_every_stream_needs_the_memory_to_be_declared(
    tmp_path: Path,
) -> None:
    """Nineteen blocks of random bytes: whoever declares less than they take is ended."""
    steps = [Step(Mode.PLANES, kind, BLOCK_BYTES * kind.width, 0) for kind in Kind]
    # The same blocks again, so that the first ones are still held when the last ones are read.
    raw = bytes([Codec.RAW]) + random.Random(1).randbytes(BLOCK_BYTES)
    short = [Step(Mode.PLANES, kind, kind.width, 0) for kind in Kind]
    length = sum(step.length for step in [*short, *steps])
    patch = program(*short, *steps, blocks=raw * sum(kind.width for kind in Kind))

    assert refused(tmp_path, patch, length, memory_bytes=1 * MIB) is Reason.DECODER_OVER_MEMORY
