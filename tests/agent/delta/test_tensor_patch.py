"""``tensor-delta/1`` and ``full-planes/1``: what the controller builds is what the device makes."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailboat_schemas.plane_blocks import Codec
from mailboat_schemas.tensor_program import (
    FRAME_BYTES,
    Header,
    Kind,
    Mode,
    Step,
    encode_program,
    frames,
)
from tensor_patches import made, made_from, patch_of
from weights import Weights, fine_tuned, onnx_with_hidden_tensors, safetensors, weights

GIB = 1 << 30


def by_hand(*steps: Step) -> bytes:
    """A patch without data: a program of copies."""
    program = encode_program(steps)
    return Header(len(steps), len(program)).encode() + bytes([Codec.RAW]) + program


BASE = weights()
EDITED: Weights = {"conv": BASE["conv"], "new": BASE["bias"], "dense": fine_tuned(BASE)["dense"]}
PAIRS = {
    "safetensors": (safetensors(BASE), safetensors(fine_tuned(BASE))),
    "a longer header": (safetensors(BASE), safetensors(fine_tuned(BASE), note="a" * 99)),
    "tensors in another order": (safetensors(BASE), safetensors(dict(reversed(BASE.items())))),
    "tensors gone and new": (safetensors(BASE), safetensors(EDITED)),
    "a tensor that grew": (safetensors(BASE), safetensors(weights(numbers=50_000))),
    "half precision": tuple(
        safetensors(each)
        for each in (
            weights(dtype=np.float16),
            fine_tuned(weights(dtype=np.float16), scale=1e-4),
        )
    ),
    "double precision": tuple(
        safetensors(each)
        for each in (weights(dtype=np.float64), fine_tuned(weights(dtype=np.float64)))
    ),
    "onnx": (onnx_with_hidden_tensors(BASE), onnx_with_hidden_tensors(fine_tuned(BASE))),
    "onnx, moved by a byte": (
        onnx_with_hidden_tensors(BASE),
        onnx_with_hidden_tensors(fine_tuned(BASE), producer="test2"),
    ),
    "no parser": tuple(b"\x01odd" + each["conv"].tobytes() for each in (BASE, fine_tuned(BASE))),
    "no parser and half of a number": tuple(
        each["conv"].tobytes()[:-1] for each in (BASE, fine_tuned(BASE))
    ),
    "from nothing": (b"", safetensors(BASE)),
    "the same": (safetensors(BASE), safetensors(BASE)),
    "one byte": (b"a", b"b"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_it_makes_the_target(name: str) -> None:
    base, target = PAIRS[name]

    assert made(base, patch_of(base, target), len(target)) == target


@pytest.mark.parametrize("name", ["onnx", "no parser", "safetensors"])
def test_the_same_files_give_the_same_patch(name: str) -> None:
    assert patch_of(*PAIRS[name]) == patch_of(*PAIRS[name])


@pytest.mark.parametrize(
    ("name", "share_max"),
    [
        ("safetensors", 0.56),  # of 32 bits; by theory log2(3e-5 / ulp) + 2.05 of them, about 16
        ("onnx", 0.56),
        ("onnx, moved by a byte", 0.56),
        ("no parser", 0.56),
        ("half precision", 0.35),  # of 16; by theory 4.8 of them, and 2 KB of tables
        ("tensors in another order", 0.003),
        ("tensors gone and new", 0.14),
        ("the same", 0.0003),
        ("from nothing", 0.87),
    ],
)
def test_an_update_is_as_small_as_it_can_be(name: str, share_max: float) -> None:
    base, target = PAIRS[name]

    assert len(patch_of(base, target)) < share_max * len(target)


def edits(draw: st.DrawFn, content: bytes) -> bytes:
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(content)))
        gone = draw(st.integers(0, 200))
        content = content[:at] + draw(st.binary(max_size=200)) + content[at + gone :]
    return content


@st.composite
def mutated(draw: st.DrawFn) -> tuple[bytes, bytes]:
    name = draw(st.sampled_from(["safetensors", "onnx", "no parser", "half precision"]))
    base, target = PAIRS[name]
    return edits(draw, base), edits(draw, target)


@settings(max_examples=6, deadline=None)
@given(mutated())
def test_files_that_are_no_longer_what_they_seem_are_patched_all_the_same(
    pair: tuple[bytes, bytes],
) -> None:
    base, target = pair

    assert made(base, patch_of(base, target), len(target)) == target


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(mutated())
def test_and_so_are_many_more(pair: tuple[bytes, bytes]) -> None:
    base, target = pair

    assert made(base, patch_of(base, target), len(target)) == target


@settings(max_examples=120, deadline=None)
@given(st.binary(max_size=3000), st.binary(min_size=1, max_size=3000))
def test_any_bytes_make_any_other_bytes(base: bytes, target: bytes) -> None:
    assert made(base, patch_of(base, target), len(target)) == target


SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1e-45, -1e-45, 3.4e38, 1.0], np.float32
)


def test_every_bit_of_the_strangest_floats_is_kept() -> None:
    rng = np.random.default_rng(3)
    base = safetensors({"a": rng.choice(SPECIAL, 5000)})
    target = safetensors({"a": rng.choice(SPECIAL, 5000)})

    assert made(base, patch_of(base, target), len(target)) == target


def test_places_beyond_four_gigabytes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "base"
    with path.open("wb") as file:  # a hole, which takes no room
        file.seek(5 * GIB)
        file.write(b"beyond")
    patch = by_hand(
        Step(Mode.COPY, Kind.BYTES, 6, 5 * GIB), Step(Mode.COPY, Kind.BYTES, 4, 2 * GIB)
    )
    base_fd = os.open(path, os.O_RDONLY)
    try:
        assert made_from(base_fd, 5 * GIB + 6, patch, 10) == b"beyond" + bytes(4)
    finally:
        os.close(base_fd)


def test_a_step_of_many_gigabytes_is_cut_into_frames() -> None:
    long = Step(Mode.DELTA, Kind.FLOAT32, 5 * GIB, 8)
    odd = Step(Mode.COPY, Kind.BYTES, 3, 0)
    cut = list(frames([odd, long]))

    assert max(sum(step.length for step in frame) for frame in cut) <= FRAME_BYTES
    assert sum(step.length for frame in cut for step in frame) == 5 * GIB + 3
    assert all(step.length % step.kind.width == 0 for frame in cut for step in frame)
    assert cut[-1][-1].base_offset + cut[-1][-1].length == 5 * GIB + 8
