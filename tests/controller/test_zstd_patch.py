"""Patches of the format ``zstd-patch/1``: small, the same each time, and readable by others."""

import random
import shutil
import subprocess
from pathlib import Path

import pytest
import zstandard

from mailboat_controller.deltas.zstd_patch import NotToBePatched, build_zstd_patch, describe
from mailboat_schemas.patch_formats import ZSTD_PATCH_BASE_BYTES_MAX, ZSTD_PATCH_WINDOW_BYTES_MAX

needs_zstd = pytest.mark.skipif(shutil.which("zstd") is None, reason="needs the zstd command")
MIB = 1 << 20


def noise(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def edited(base: bytes) -> bytes:
    """Something put in early, so that everything after it stands elsewhere, and a new end."""
    cut, end = len(base) // 3, len(base) // 100
    return base[:cut] + b"inserted" * 20 + base[cut:-end] + noise(end, seed=2)


def applied(base: bytes, patch: bytes) -> bytes:
    prefix = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    decompressor = zstandard.ZstdDecompressor(dict_data=prefix, max_window_size=1 << 31)
    return decompressor.decompress(patch)


@pytest.mark.parametrize("length", [1, 1000, 200_000, 3 * MIB])
def test_a_patch_makes_the_target_out_of_the_base(length: int) -> None:
    base, target = noise(length), edited(noise(length))

    assert applied(base, build_zstd_patch(base, target).content) == target


def test_the_same_files_give_the_same_patch() -> None:
    base = noise(100_000)

    assert build_zstd_patch(base, edited(base)) == build_zstd_patch(base, edited(base))


@pytest.mark.parametrize("length", [4 * MIB, pytest.param(12 * MIB, marks=pytest.mark.slow)])
def test_the_whole_base_is_found_also_of_a_large_file(length: int) -> None:
    """The tables of a level as it comes are too small for a large base, and lose most of it."""
    base = noise(length)

    assert len(build_zstd_patch(base, edited(base)).content) < length / 100 + 10_000


def test_what_it_takes_to_apply_is_declared() -> None:
    base = noise(200_000)
    target = edited(base)

    delta = describe(base, target, build_zstd_patch(base, target))

    assert (delta.base_length, delta.format) == (200_000, "zstd-patch/1")
    assert len(base) + len(target) < delta.memory_bytes < len(base) + len(target) + 5 * MIB


def test_what_is_too_large_for_the_format_is_not_built() -> None:
    zeros = bytes(ZSTD_PATCH_WINDOW_BYTES_MAX + 1)

    with pytest.raises(NotToBePatched, match="base of"):
        build_zstd_patch(zeros[: ZSTD_PATCH_BASE_BYTES_MAX + 1], b"target")
    with pytest.raises(NotToBePatched, match="target of"):
        build_zstd_patch(b"base", zeros)
    with pytest.raises(NotToBePatched, match="empty"):
        build_zstd_patch(b"", b"target")


@needs_zstd
def test_the_command_line_applies_our_patch(tmp_path: Path) -> None:
    base = noise(300_000)
    target = edited(base)
    (tmp_path / "base").write_bytes(base)
    (tmp_path / "patch").write_bytes(build_zstd_patch(base, target).content)

    run = ["zstd", "-q", "-d", "--patch-from=base", "patch", "-o", "made"]
    subprocess.run(run, cwd=tmp_path, check=True, timeout=120)

    assert (tmp_path / "made").read_bytes() == target
