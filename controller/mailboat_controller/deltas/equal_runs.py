"""Where a target holds what its base holds, without knowing what the bytes are.

Windows of the base go into a sorted table of hashes. The target is scanned window by window in
numpy; what is found is compared and extended in both directions. Equal runs that keep the shift
of the one before are preferred, because they cost nothing to tell.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
WINDOWS_MAX = 1 << 22  # of the base in the table, 64 MiB; a larger file is sampled
_WINDOW_WORDS = 8  # of eight bytes; one where shorter runs are wanted
_HASHED_WORDS = (0, 3, 7)  # of them: what is found is compared anyway
_FILTER_BITS = 24  # of a hash, to a byte of the filter; three more choose the bit
_STRIDE_MAX = 64
_SCAN_BYTES = 1 << 18  # at once, so that their hashes stay in the processor's cache
_GAP_BYTES_MAX = 64  # differences that a similar run goes on over
_CANDIDATES_MAX = 4  # places in the base with the same hash that are looked at
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_COMPARE_BYTES = (64, 4096, 1 << 18)


@dataclass(frozen=True, slots=True)
class Run:
    """``length`` bytes that are the same."""

    target: int
    base: int
    length: int


class Base:
    """Bytes to look for, with the table of their windows; made when it is first needed.

    Runs shorter than a window are not found: ``length_min`` is what it is chosen by.
    """

    def __init__(self, content: Bytes, *, length_min: int) -> None:
        self.content = content
        self.length_min = length_min
        self.words = 1 if length_min < 8 * _WINDOW_WORDS else _WINDOW_WORDS

    @cached_property
    def table(self) -> "_Table":
        # Windows so far apart that one of them lies in any run of that length. In a graph, where
        # the same names come again and again, the table of all of them finds the better place.
        far = min(_STRIDE_MAX, self.length_min - 8 * self.words + 1)
        stride = far if self.words > 1 else 1
        return _Table(self.content, self.words, stride)


def equal_runs(whole: Base, target: Bytes) -> Iterator[Run]:
    """In the order of the target, apart from each other."""
    base, words, length_min = whole.content, whole.words, whole.length_min
    if min(base.size, target.size) < 8 * words:
        return
    table = whole.table
    position = done = shift = 0
    same = common_prefix(base, target)
    if same >= length_min:
        yield Run(0, 0, same)
        position = done = same
    while position + 8 * words <= target.size:
        end = min(target.size, position + _SCAN_BYTES + 8 * words - 1)
        scanned = end - 8 * words + 1
        for offset, places in table.find(target[position:end]):
            place = position + offset
            if place < done:
                continue
            run = _best(base, target, place, done, shift, places)
            if run is None or run.length < length_min:
                continue
            yield run
            done, shift = run.target + run.length, run.base - run.target
        position = max(scanned, done)


def similar_runs(base: Bytes, target: Bytes, exact: Iterable[Run]) -> list[Run]:
    """Runs that go on over small differences, as bsdiff's do: most bytes in them are the same.

    Source: C. Percival, "Naive differences of executable code", 2003.
    """
    grown: list[Run] = []
    for run in exact:
        last = grown[-1] if grown else None
        if last is not None:
            gap = run.target - last.target - last.length
            if run.base - run.target == last.base - last.target and gap <= _GAP_BYTES_MAX:
                length = run.target + run.length - last.target
                grown[-1] = Run(last.target, last.base, length)
                continue
            grown[-1] = _forward(base, target, last, gap)
        start = grown[-1].target + grown[-1].length if grown else 0
        grown.append(_backward(base, target, run, run.target - start))
    if grown:
        last = grown[-1]
        grown[-1] = _forward(base, target, last, target.size - last.target - last.length)
    return grown


def _forward(base: Bytes, target: Bytes, run: Run, room: int) -> Run:
    start, base_start = run.target + run.length, run.base + run.length
    length = min(room, base.size - base_start, _GAP_BYTES_MAX)
    same = base[base_start : base_start + length] == target[start : start + length]
    return Run(run.target, run.base, run.length + _worth(same))


def _backward(base: Bytes, target: Bytes, run: Run, room: int) -> Run:
    length = min(room, run.base, _GAP_BYTES_MAX)
    before = base[run.base - length : run.base] == target[run.target - length : run.target]
    more = _worth(before[::-1])
    return Run(run.target - more, run.base - more, run.length + more)


def _worth(same: npt.NDArray[np.bool_]) -> int:
    """How far to go on, so that as many more bytes are the same than are not."""
    if not same.size:
        return 0
    score = np.cumsum(np.where(same, 1, -1))
    best = int(score.argmax())
    return best + 1 if score[best] > 0 else 0


def common_prefix(one: Bytes, other: Bytes) -> int:
    """How many bytes at the beginning of both are the same."""
    length, done, stage = min(one.size, other.size), 0, 0
    while done < length:
        step = _COMPARE_BYTES[min(stage, len(_COMPARE_BYTES) - 1)]
        differ = one[done : min(length, done + step)] != other[done : min(length, done + step)]
        if differ.any():
            return done + int(differ.argmax())
        done, stage = min(length, done + step), stage + 1
    return length


def _best(
    base: Bytes, target: Bytes, place: int, done: int, shift: int, places: npt.NDArray[np.int64]
) -> Run | None:
    """The longest around ``place``; a run that keeps the shift is taken as it is."""
    # The same words stand in many places of a graph; the nearest is likely to go on longest.
    nearest = int(np.searchsorted(places, place + shift))
    near = places[max(0, nearest - _CANDIDATES_MAX // 2) : nearest + _CANDIDATES_MAX // 2]
    best: Run | None = None
    for candidate in (place + shift, *near.tolist(), *places[:1].tolist()):
        if not 0 <= candidate < base.size:
            continue
        ahead = common_prefix(base[candidate:], target[place:])
        if not ahead:
            continue
        back_max = min(place - done, candidate)
        back = common_prefix(
            base[candidate - back_max : candidate][::-1], target[place - back_max : place][::-1]
        )
        run = Run(place - back, candidate - back, back + ahead)
        if candidate == place + shift and run.length >= 8:
            return run
        if best is None or run.length > best.length:
            best = run
    return best


class _Table:
    def __init__(self, base: Bytes, words: int, stride: int) -> None:
        self._words = _HASHED_WORDS if words > 1 else (0,)
        stride = max(stride, -(-base.size // WINDOWS_MAX))
        hashes = []
        for start in range(0, base.size - 8 * words + 1, _SCAN_BYTES * stride):
            end = min(base.size, start + _SCAN_BYTES * stride + 8 * words - 1)
            hashes.append(_hashes(base[start:end], self._words, stride))
        found = np.concatenate(hashes)
        self._places = np.argsort(found, kind="stable")
        self._hashes = found[self._places]
        self._places *= stride
        self._filter = np.zeros(1 << _FILTER_BITS, np.uint8)
        np.bitwise_or.at(self._filter, _filter_byte(found), _filter_bit(found))

    def find(self, target: Bytes) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """Offsets in ``target`` with all places in the base that have the same hash, in order."""
        hashes = _hashes(target, self._words)
        passed = self._filter[_filter_byte(hashes)]
        maybe = passed.nonzero()[0]
        maybe = maybe[(passed[maybe] & _filter_bit(hashes[maybe])) != 0]
        wanted = hashes[maybe]
        at = np.searchsorted(self._hashes, wanted)
        at[at == self._hashes.size] = 0
        found = self._hashes[at] == wanted
        ends = np.searchsorted(self._hashes, wanted[found], side="right")
        for offset, first, end in zip(
            maybe[found].tolist(), at[found].tolist(), ends.tolist(), strict=True
        ):
            yield offset, self._places[first:end]


def _filter_byte(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    return hashes >> np.uint64(64 - _FILTER_BITS)


def _filter_bit(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    which = (hashes >> np.uint64(64 - _FILTER_BITS - 3)) & np.uint64(7)
    return np.uint8(1) << which.astype(np.uint8)


def _hashes(content: Bytes, words: Sequence[int], stride: int = 1) -> npt.NDArray[np.uint64]:
    """Of the windows ``stride`` apart that lie within ``content``."""
    count = (content.size - 8 * words[-1] - 8) // stride + 1
    first, *rest = (
        np.ascontiguousarray(np.ndarray((count,), "<u8", content.data, 8 * word, (stride,)))
        for word in words
    )
    hashes = first * _MULTIPLIER
    for word in rest:
        hashes ^= hashes >> np.uint64(29)
        hashes ^= word
        hashes *= _MULTIPLIER
    hashes ^= hashes << np.uint64(32)
    return hashes
