"""``full-zstd/1`` of any size: what a sample says is not worth it is not built, and why."""

import io
import random
from pathlib import Path

import pytest
import zstandard

from mailboat_controller.deltas import full_zstd, portfolio
from mailboat_controller.deltas.full_zstd import Estimate, estimate, write_full_zstd
from mailboat_controller.deltas.portfolio import select

MIB = 1 << 20


@pytest.fixture
def small_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 KiB in four runs, so that a file of 100 KB is a large one."""
    monkeypatch.setattr(full_zstd, "SAMPLE_RUN_BYTES", 16 << 10)
    monkeypatch.setattr(full_zstd, "SAMPLE_BYTES", 64 << 10)


def noise(length: int) -> bytes:
    return random.Random(1).randbytes(length)


def words(length: int) -> bytes:
    """Text of a sort: the slow level finds more in it than the quick one."""
    rng = random.Random(2)
    vocabulary = [rng.randbytes(rng.randint(3, 9)).hex().encode() for _ in range(900)]
    return b" ".join(rng.choices(vocabulary, k=length // 8))[:length]


def built(target: bytes, sampled: Estimate | None = None) -> bytes:
    patch = io.BytesIO()
    write_full_zstd(memoryview(target), patch, sampled)
    return patch.getvalue()


def test_it_makes_the_target_in_the_window_that_a_device_allows() -> None:
    target = words(100_000)
    patch = built(target)

    assert zstandard.ZstdDecompressor(max_window_size=8 << 20).decompress(patch) == target
    assert zstandard.get_frame_parameters(patch).content_size == len(target)


@pytest.mark.usefixtures("small_samples")
def test_noise_is_not_built_and_the_row_says_why(tmp_path: Path) -> None:
    choice = select(portfolio.build(None, noise(200_000), tmp_path), memory_bytes_max=64 * MIB)

    row = next(row for row in choice.rows if row.format == "full-zstd/1")
    assert row.size_bytes is None
    assert "it would come to 100% of the file, by a sample of" in row.because
    assert not (tmp_path / "full-zstd-1.patch").exists()


@pytest.mark.usefixtures("small_samples")
def test_what_shrinks_is_built(tmp_path: Path) -> None:
    target = words(200_000)
    sampled = estimate(memoryview(target))
    built = portfolio.build(None, target, tmp_path, {"full-zstd/1"})
    choice = select(built, memory_bytes_max=64 * MIB)

    assert choice.full is not None
    assert choice.full.format == "full-zstd/1"
    assert sampled is not None
    assert sampled.is_thorough_worth_it
    assert choice.full.size_bytes / len(target) == pytest.approx(sampled.share, abs=0.2)


def test_a_file_no_larger_than_the_sample_is_not_sampled(
    small_samples: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert estimate(memoryview(noise(64 << 10))) is None
    assert estimate(memoryview(noise((64 << 10) + 1))) is not None


def test_the_slow_level_is_for_what_gains_by_it_and_not_for_gigabytes() -> None:
    worth, vain = (
        Estimate(0.5, is_thorough_worth_it=True),
        Estimate(0.5, is_thorough_worth_it=False),
    )

    assert full_zstd._level(128 * MIB, worth) == 19
    assert full_zstd._level(128 * MIB + 1, worth) == 15
    assert full_zstd._level(40 * MIB, vain) == 9
    assert full_zstd._level(20 * MIB, None) == 19


@pytest.mark.slow
def test_the_frame_does_not_depend_on_how_many_processors_there_are() -> None:
    """Three jobs of 32 MiB: as many workers as there are at hand make the same bytes of them."""
    target = memoryview(words(1 * MIB) * 80)

    def with_workers(count: int) -> bytes:
        patch = io.BytesIO()
        compressor = full_zstd._compressor(full_zstd.QUICK_LEVEL, len(target), 23, count)
        with compressor.stream_writer(patch, size=len(target), closefd=False) as writer:
            for piece in full_zstd._pieces(target):
                writer.write(piece)
        return patch.getvalue()

    assert with_workers(1) == with_workers(2) == with_workers(4)
