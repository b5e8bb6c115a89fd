"""The format ``full-zstd/1``: the whole target as one zstd frame, for devices without a base.

Level 19 takes a second for each 3 MB, and saves nothing over level 9 on weights. So a large file
is sampled first: what would not be worth shipping is not built, and what gains nothing from the
slow level is built at the quick one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import zstandard

from mailboat_controller.deltas.patch import NotToBePatched

THOROUGH_LEVEL, QUICK_LEVEL, LARGE_LEVEL = 19, 9, 15
# Level 19 takes a minute for so much, with two workers, and twice that for what it does gain on;
# level 15 is ten times as quick.
THOROUGH_BYTES_MAX = 128 << 20
WINDOW_LOG_MAX = 23  # what the device allows, 8 MiB
# A file that is cut up for workers is cut in the same places whatever their number, but without
# any it is not cut at all. So there are always two, on every machine.
WORKERS = 2
WRITE_BYTES = 1 << 20
# Runs as long as the window, and larger files are sampled; of each run, its beginning at both
# levels.
SAMPLE_RUN_BYTES, SAMPLE_RUNS = 8 << 20, 4
SAMPLE_BYTES = SAMPLE_RUN_BYTES * SAMPLE_RUNS
_COMPARED_BYTES = 1 << 20
_WORTH_SHARE = 0.99  # the slow level has to come to less than that of the quick one
_MEMORY_MARGIN_BYTES = 4 << 20  # buffers of the decoder, beside the window


@dataclass(frozen=True, slots=True)
class Estimate:
    """By a sample. ``share`` is the patch to the target."""

    share: float
    is_thorough_worth_it: bool


def estimate(target: memoryview) -> Estimate | None:
    """None for a file that is no larger than the sample would be. Takes five seconds."""
    if len(target) <= SAMPLE_BYTES:
        return None
    last = len(target) - SAMPLE_RUN_BYTES
    runs = [last * index // (SAMPLE_RUNS - 1) for index in range(SAMPLE_RUNS)]
    quick = sum(_compressed(target[run : run + SAMPLE_RUN_BYTES], QUICK_LEVEL) for run in runs)
    compared = [target[run : run + _COMPARED_BYTES] for run in runs]
    gain = sum(_compressed(each, THOROUGH_LEVEL) for each in compared) / sum(
        _compressed(each, QUICK_LEVEL) for each in compared
    )
    return Estimate(quick / SAMPLE_BYTES * min(1.0, gain), gain < _WORTH_SHARE)


def write_full_zstd(target: memoryview, patch: BinaryIO, sampled: Estimate | None = None) -> int:
    """The memory in bytes that applying it takes, above a bare process.

    The same bytes each time, for one version of the zstd library.

    Raises:
        NotToBePatched: the target is empty.
        OSError: the disk.
    """
    if not len(target):
        raise NotToBePatched("the target is empty")
    window_log = min(WINDOW_LOG_MAX, max(10, (len(target) - 1).bit_length()))
    compressor = _compressor(_level(len(target), sampled), len(target), window_log, WORKERS)
    with compressor.stream_writer(patch, size=len(target), closefd=False) as writer:
        for piece in _pieces(target):
            writer.write(piece)
    return (1 << window_log) + _MEMORY_MARGIN_BYTES


def _level(length: int, sampled: Estimate | None) -> int:
    if sampled is not None and not sampled.is_thorough_worth_it:
        return QUICK_LEVEL
    return THOROUGH_LEVEL if length <= THOROUGH_BYTES_MAX else LARGE_LEVEL


def _compressed(content: memoryview, level: int) -> int:
    return len(_compressor(level, len(content), WINDOW_LOG_MAX, 0).compress(content))


def _compressor(level: int, length: int, window_log: int, workers: int) -> zstandard.ZstdCompressor:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=length,
        window_log=window_log,
        threads=workers,
        write_content_size=True,
        write_checksum=False,  # the sha256 of the outcome is signed
        write_dict_id=False,
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


def _pieces(content: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(content), WRITE_BYTES):
        yield content[start : start + WRITE_BYTES]
