"""Applying a patch to see what it makes: every way, and patches that are wrong."""

import hashlib
from pathlib import Path

import pytest

from mailboat_controller.deltas import portfolio
from mailboat_controller.deltas.applying import outcome_sha256
from mailboat_schemas.tensor_program import MalformedPatch
from weights import fine_tuned, onnx_with_hidden_tensors, safetensors, weights

BEFORE = weights(numbers=16_000)
HALF = weights(numbers=16_000, dtype="float16")
QUANTIZED = bytes(range(256)) * 400
PAIRS = {
    "safetensors": (safetensors(BEFORE), safetensors(fine_tuned(BEFORE))),
    "half": tuple(safetensors(each) for each in (HALF, fine_tuned(HALF, scale=1e-4))),
    "onnx": (onnx_with_hidden_tensors(BEFORE), onnx_with_hidden_tensors(fine_tuned(BEFORE))),
    "few bytes changed": (QUANTIZED, QUANTIZED[:5000] + b"\x07\x09" + QUANTIZED[5002:]),
    "text": (b"one two three " * 900, b"one two four three " * 900),
}


SLOW = {"half", "safetensors"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in PAIRS],
)
def test_every_way_makes_the_target(name: str, tmp_path: Path) -> None:
    old, new = PAIRS[name]
    base = tmp_path / "base"
    base.write_bytes(old)
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    built = portfolio.build(old, new, scratch).candidates

    assert {each.format for each in built} >= {"tensor-delta/1", "zstd-patch/1"}
    expected = hashlib.sha256(new).hexdigest()
    assert {
        each.format: outcome_sha256(each.format, base, each.patch, len(new)) for each in built
    } == {each.format: expected for each in built}


def test_a_flipped_bit_makes_another_file_or_none(tmp_path: Path) -> None:
    old, new = PAIRS["safetensors"]
    base, scratch = tmp_path / "base", tmp_path / "scratch"
    base.write_bytes(old)
    scratch.mkdir()
    expected = hashlib.sha256(new).hexdigest()
    for each in portfolio.build(old, new, scratch).candidates:
        content = bytearray(each.patch.read_bytes())
        content[len(content) * 2 // 3] ^= 0x10
        each.patch.write_bytes(content)
        try:
            assert outcome_sha256(each.format, base, each.patch, len(new)) != expected
        except (MalformedPatch, ValueError, IndexError):
            continue


def test_a_format_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bsdiff"):
        outcome_sha256("bsdiff/1", None, tmp_path / "patch", 1)
