"""All the ways to bring one file to a device, and the one rule that says which of them is used.

The rule: a patch ships if it is under 0.9 of the best full download and fits the memory of the
class; of those within 5 % of the smallest, the one that takes the least memory to apply, with
anything up to 32 MiB counting as little. The same
rule says how the full download itself comes, with the bare file as what has to be beaten.
"""

import hashlib
import mmap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from mailboat_controller.deltas.full_zstd import build_full_zstd
from mailboat_controller.deltas.patch import NotToBePatched, Patch
from mailboat_controller.deltas.tensor_delta import build_tensor_delta
from mailboat_controller.deltas.zstd_patch import build_zstd_patch, refuse_large
from mailboat_schemas.deltas import (
    FULL_PLANES,
    FULL_ZSTD,
    TENSOR_DELTA,
    WITHOUT_BASE,
    ZSTD_PATCH,
    Delta,
)

File = bytes | Path
SHARE_MAX = 0.9  # of the best full download; what saves less is not worth a second way to fail
ALIKE_SHARE = 1.05  # of the smallest: within that, memory decides
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
    patch: bytes
    memory_bytes: int
    build_seconds: float
    target_length: int

    @property
    def size_bytes(self) -> int:
        return len(self.patch)

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


def candidates(base: File | None, target: File) -> list[Candidate]:
    """Every candidate that can be built."""
    return list(build(base, target).candidates)


def build(base: File | None, target: File) -> Portfolio:
    """Blocking, with both cores: a second for each 2 MB, most of it for ``full-zstd``."""
    with _opened(base) as old, _opened(target) as new:
        builders: dict[str, Callable[[], Patch]] = {
            FULL_ZSTD: lambda: build_full_zstd(new),
            FULL_PLANES: lambda: build_tensor_delta(_numbers(b""), _numbers(new)),
        }
        if base is not None:
            builders[ZSTD_PATCH] = lambda: _zstd_patch(old, new)
            builders[TENSOR_DELTA] = lambda: build_tensor_delta(_numbers(old), _numbers(new))
        built: list[Candidate] = []
        unfit: dict[str, str] = {}
        for form, builder in builders.items():
            began = time.monotonic()
            try:
                patch = builder()
            except NotToBePatched as error:
                unfit[form] = error.what
                continue
            seconds = time.monotonic() - began
            built.append(
                Candidate(
                    format=form,
                    patch=patch.content,
                    memory_bytes=patch.memory_bytes,
                    build_seconds=seconds,
                    target_length=len(new),
                )
            )
        return Portfolio(len(new), tuple(built), unfit)


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
            patch=hashlib.sha256(candidate.patch).hexdigest(),
            patch_length=candidate.size_bytes,
            memory_bytes=candidate.memory_bytes,
        )


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


def _zstd_patch(base: memoryview, target: memoryview) -> Patch:
    refuse_large(len(base), len(target))  # before they are brought into memory
    return build_zstd_patch(bytes(base), bytes(target))


def _numbers(content: bytes | memoryview) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    return np.frombuffer(content, np.uint8)


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
