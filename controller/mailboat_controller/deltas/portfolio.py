"""All the ways to bring one file to a device, and the one rule that says which of them is used.

The rule: a patch ships if it is under 0.9 of the best full download and fits the memory of the
class; of those within 5 % of the smallest, the one that takes the least memory to apply, with
anything up to 32 MiB counting as little. The same
rule says how the full download itself comes, with the bare file as what has to be beaten.
"""

import hashlib
import mmap
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import numpy as np

from mailboat_controller.deltas import full_zstd
from mailboat_controller.deltas.patch import NotToBePatched
from mailboat_controller.deltas.tensor_delta import write_tensor_delta
from mailboat_controller.deltas.zstd_patch import build_zstd_patch, refuse_large
from mailboat_schemas.deltas import Delta
from mailboat_schemas.patch_formats import (
    FULL_PLANES,
    FULL_ZSTD,
    TENSOR_DELTA,
    WITHOUT_BASE,
    ZSTD_PATCH,
    ZSTD_PATCH_BASE_BYTES_MAX,
)

File = bytes | Path
# Measured: an interpreter with numpy and its threads 200 MiB; tables of windows and blocks that are
# packed 220 to 300; the tables of zstd at level 19 for two workers 350.
BUILD_MEMORY_BYTES = 768 << 20
# Of its tables at most, for a base of 64 MiB; with both files in memory once more, and the patch.
ZSTD_PATCH_MEMORY_BYTES = 1536 << 20
FORMATS = frozenset({FULL_ZSTD, FULL_PLANES, ZSTD_PATCH, TENSOR_DELTA})
SHARE_MAX = 0.9  # of the best full download; what saves less is not worth a second way to fail
ALIKE_SHARE = 1.05  # of the smallest: within that, memory decides
# What a sample says would miss that by so much is not built: the sample does not see everything.
SAMPLE_MARGIN = 0.02
SMALL_MEMORY_BYTES = 32 << 20  # up to here memory decides nothing: a runtime takes more than that
# What one MB of the target takes to make, on a device with one core of 2 GHz. For `explain` alone;
# docs/delta-results.md has measured ones.
_APPLY_SECONDS_PER_MB: Mapping[str, float] = MappingProxyType(
    {FULL_ZSTD: 0.004, FULL_PLANES: 0.05, ZSTD_PATCH: 0.004, TENSOR_DELTA: 0.08}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to make the target. ``memory_bytes`` is the peak of that, above a bare process."""

    format: str
    patch: Path
    size_bytes: int
    memory_bytes: int
    build_seconds: float
    target_length: int

    @property
    def apply_seconds_estimate(self) -> float:
        """On a small device."""
        return self.target_length / 1e6 * _APPLY_SECONDS_PER_MB[self.format]


@dataclass(frozen=True, slots=True)
class Portfolio:
    """What could be built, and why the rest could not, by format."""

    target_length: int
    candidates: tuple[Candidate, ...]
    unfit: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What ``explain`` prints of one candidate. Sizes in bytes; None is unknown: not built."""

    format: str
    size_bytes: int | None = None
    share: float | None = None  # of the best full download
    memory_bytes: int | None = None
    build_seconds: float | None = None
    apply_seconds_estimate: float | None = None
    because: str


@dataclass(frozen=True, slots=True)
class Selection:
    """What ships from this base, how a device without it gets the file, and why. None: as it is."""

    delta: Candidate | None
    full: Candidate | None
    rows: tuple[Row, ...]


def build(
    base: File | None, target: File, scratch: Path, formats: Collection[str] = FORMATS
) -> Portfolio:
    """Patches as files in ``scratch``, an existing directory, one for each format.

    Blocking, with both cores: a second for each 5 to 10 MB. What it holds in memory does not grow
    with the files (see `memory_to_build`); ``scratch`` takes up to the size of the target for
    each format, and once more while one of them is built. Formats of `WITHOUT_BASE` come out the
    same from every base.

    Raises:
        OSError: the disk.
    """
    built: list[Candidate] = []
    unfit: dict[str, str] = {}
    with _opened(base) as old, _opened(target) as new:
        for form, write in _writers(old if base is not None else None, new, scratch).items():
            if form not in formats:
                continue
            path = scratch / f"{form.replace('/', '-')}.patch"
            began = time.monotonic()
            try:
                with path.open("wb") as patch:
                    memory_bytes = write(patch)
            except NotToBePatched as error:
                path.unlink()
                unfit[form] = error.what
                continue
            built.append(
                Candidate(
                    format=form,
                    patch=path,
                    size_bytes=path.stat().st_size,
                    memory_bytes=memory_bytes,
                    build_seconds=time.monotonic() - began,
                    target_length=len(new),
                )
            )
        return Portfolio(len(new), tuple(built), unfit)


def memory_to_build(base_length: int, target_length: int) -> int:
    """Bytes of address space that a process needs for `build`, as ``RLIMIT_AS`` counts them.

    The files are mapped: they take address space, and only as much memory as is free anyway.
    """
    of_zstd = 0 if base_length > ZSTD_PATCH_BASE_BYTES_MAX else ZSTD_PATCH_MEMORY_BYTES
    return base_length + target_length + BUILD_MEMORY_BYTES + of_zstd


Writer = Callable[[BinaryIO], int]  # of a patch; to the bytes of memory that applying it takes


def _writers(base: memoryview | None, target: memoryview, scratch: Path) -> Mapping[str, Writer]:
    def numbers(before: memoryview) -> Writer:
        old, new = np.frombuffer(before, np.uint8), np.frombuffer(target, np.uint8)
        return lambda patch: write_tensor_delta(old, new, patch, scratch)

    writers: dict[str, Writer] = {
        FULL_ZSTD: lambda patch: _full_zstd(target, patch),
        FULL_PLANES: numbers(memoryview(b"")),
    }
    if base is not None:
        writers[ZSTD_PATCH] = lambda patch: _zstd_patch(base, target, patch)
        writers[TENSOR_DELTA] = numbers(base)
    return writers


def select(portfolio: Portfolio, *, memory_bytes_max: int) -> Selection:
    """The rule. ``memory_bytes_max`` is what the class gives a decoder."""
    whole = [each for each in portfolio.candidates if each.format in WITHOUT_BASE]
    based = [each for each in portfolio.candidates if each.format not in WITHOUT_BASE]
    full = _best(whole, portfolio.target_length, memory_bytes_max)
    best_full_bytes = full.size_bytes if full is not None else portfolio.target_length
    delta = _best(based, best_full_bytes, memory_bytes_max)
    rows = [
        *_rows(whole, full, portfolio.target_length, best_full_bytes, memory_bytes_max),
        *_rows(based, delta, best_full_bytes, best_full_bytes, memory_bytes_max),
        *(Row(format=form, because=why) for form, why in portfolio.unfit.items()),
    ]
    return Selection(delta, full, tuple(rows))


def describe(candidate: Candidate, base: File | None, target: File) -> Delta:
    """What the director tells devices of it."""
    from_nothing = candidate.format in WITHOUT_BASE or base is None
    with _opened(None if from_nothing else base) as old, _opened(target) as new:
        return Delta(
            target=hashlib.sha256(new).hexdigest(),
            base=None if from_nothing else hashlib.sha256(old).hexdigest(),
            base_length=len(old),
            format=candidate.format,
            patch=_sha256(candidate.patch),
            patch_length=candidate.size_bytes,
            memory_bytes=candidate.memory_bytes,
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _best(
    offered: Sequence[Candidate], to_beat_bytes: int, memory_bytes_max: int
) -> Candidate | None:
    fitting = [
        each
        for each in offered
        if each.memory_bytes <= memory_bytes_max and each.size_bytes < SHARE_MAX * to_beat_bytes
    ]
    if not fitting:
        return None
    smallest = min(each.size_bytes for each in fitting)
    alike = [each for each in fitting if each.size_bytes <= ALIKE_SHARE * smallest]
    return min(
        alike,
        key=lambda each: (
            max(each.memory_bytes, SMALL_MEMORY_BYTES),
            each.size_bytes,
            each.format,
        ),
    )


def _rows(
    offered: Sequence[Candidate],
    best: Candidate | None,
    to_beat_bytes: int,
    best_full_bytes: int,
    memory_bytes_max: int,
) -> Iterator[Row]:
    for each in sorted(offered, key=lambda candidate: candidate.size_bytes):
        yield Row(
            format=each.format,
            size_bytes=each.size_bytes,
            share=each.size_bytes / max(1, best_full_bytes),
            memory_bytes=each.memory_bytes,
            build_seconds=each.build_seconds,
            apply_seconds_estimate=each.apply_seconds_estimate,
            because=_because(each, best, to_beat_bytes, memory_bytes_max),
        )


def _because(
    each: Candidate, best: Candidate | None, to_beat_bytes: int, memory_bytes_max: int
) -> str:
    if each is best:
        return "wins"
    if each.memory_bytes > memory_bytes_max:
        needed, there = each.memory_bytes >> 20, memory_bytes_max >> 20
        return f"takes {needed} MiB of memory, the class gives {there}"
    if each.size_bytes >= SHARE_MAX * to_beat_bytes or best is None:
        share = each.size_bytes / max(1, to_beat_bytes)
        return f"{share:.0%} of what it has to beat, more than {SHARE_MAX:.0%}"
    if each.size_bytes < best.size_bytes:
        return f"about as small as {best.format}, and takes more memory"
    return f"{each.size_bytes / best.size_bytes:.2f} times as large as {best.format}"


def _full_zstd(target: memoryview, patch: BinaryIO) -> int:
    sampled = full_zstd.estimate(target)
    if sampled is not None and sampled.share >= SHARE_MAX + SAMPLE_MARGIN:
        raise NotToBePatched(
            f"it would come to {sampled.share:.0%} of the file, by a sample of "
            f"{full_zstd.SAMPLE_BYTES >> 20} MiB"
        )
    return full_zstd.write_full_zstd(target, patch, sampled)


def _zstd_patch(base: memoryview, target: memoryview, patch: BinaryIO) -> int:
    refuse_large(len(base), len(target))  # before they are brought into memory
    built = build_zstd_patch(bytes(base), bytes(target))
    patch.write(built.content)
    return built.memory_bytes


@contextmanager
def _opened(file: File | None) -> Iterator[memoryview]:
    """Its bytes; those of a path are mapped, not read."""
    if not isinstance(file, Path):
        yield memoryview(file or b"")
        return
    if not file.stat().st_size:
        yield memoryview(b"")
        return
    # Not closed by hand: arrays may still point into it.
    with file.open("rb") as opened:
        yield memoryview(mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ))
