"""From two files to a program: which bytes of the target come from where, and how.

Tensors that a parser finds are paired by name, what is left of them by kind and length. What lies
between (the graph) is copied and inserted by equal runs. A file without a parser is all "between":
there, stretches that lie between two equal runs and are as long in both files are taken for
weights, and which type they have, and where a number begins, is found by trying.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mailboat_controller.deltas.equal_runs import (
    Base,
    Bytes,
    Run,
    common_prefix,
    equal_runs,
    similar_runs,
)
from mailboat_controller.deltas.layouts import Tensor, tensors_of
from mailboat_controller.deltas.numbers import best_mode
from mailboat_controller.deltas.patch import NotToBePatched
from mailboat_schemas.tensor_program import STEPS_MAX, Kind, Mode, Step

TENSOR_BYTES_MIN = 64  # smaller ones belong to the graph
# What lies between tensors is brought into memory, with a table several times as large. A graph is
# a few megabytes; a file with more than that is weights that the parser did not find.
GRAPH_BYTES_MAX = 32 << 20
RUN_BYTES_MIN = 12  # in a graph; a step takes three bytes or four
RUN_BYTES_MIN_UNPARSED = 512  # among weights of which most stay as they are
COPY_BYTES_MIN = 4096  # of the beginning and the end of a tensor that stay as they are
PIECE_BYTES = 1 << 20  # of a file without a parser, whose type is found anew for each
_SAME_TYPE_SHARE = 1.02  # a piece that costs no more than that has the type of the one before
_NOTHING = np.empty(0, np.uint8)
_KINDS_TRIED = (Kind.FLOAT32, Kind.FLOAT16, Kind.BFLOAT16)


def program_of(base: Bytes, target: Bytes) -> list[Step]:
    """Steps that make ``target`` of ``base``, which may be empty.

    Raises:
        NotToBePatched: it would take more than `STEPS_MAX`.
    """
    inside = [each for each in tensors_of(target.data) if each.length >= TENSOR_BYTES_MIN]
    there = [each for each in tensors_of(base.data) if each.length >= TENSOR_BYTES_MIN]
    if not inside or (base.size and not there):
        return _joined(_unparsed(base, target))
    if max(_outside(base, there), _outside(target, inside)) > GRAPH_BYTES_MAX:
        return _joined(_unparsed(base, target))
    steps = list(_between(base, target, there, inside))
    pairs = _paired(base, target, there, inside)
    anywhere = Base(base, length_min=RUN_BYTES_MIN_UNPARSED)
    for tensor in inside:
        partner = pairs.get(tensor.name)
        if partner is None and tensor.length >= COPY_BYTES_MIN:
            steps += _found_elsewhere(anywhere, target, tensor.offset, tensor.length, tensor.kind)
        else:
            steps += _of_tensor(anywhere, target, tensor, partner)
    return _joined([step for _, step in sorted(steps, key=lambda each: each[0])])


def _outside(content: Bytes, tensors: Sequence[Tensor]) -> int:
    """Bytes that are no tensor's."""
    return content.size - sum(each.length for each in tensors)


Placed = tuple[int, Step]  # with its place in the target


def _paired(
    base: Bytes, target: Bytes, there: Sequence[Tensor], inside: Sequence[Tensor]
) -> dict[str, Tensor]:
    """The tensor of the base for each one of the target that has one, by the target's name."""
    named = {each.name: each for each in there}
    pairs = {
        each.name: named[each.name]
        for each in inside
        if each.name in named and named[each.name].kind is each.kind
    }
    taken = {each.name for each in pairs.values()}
    alike: defaultdict[bytes, list[Tensor]] = defaultdict(list)
    left: defaultdict[tuple[Kind, int], list[Tensor]] = defaultdict(list)
    for each in reversed(there):
        if each.name not in taken:
            alike[_fingerprint(base, each)].append(each)
    renamed = [each for each in inside if each.name not in pairs]
    for each in renamed:
        if same := alike[_fingerprint(target, each)]:
            pairs[each.name] = same.pop()
    taken = {each.name for each in pairs.values()}
    for each in reversed(there):
        if each.name not in taken:
            left[each.kind, each.length].append(each)
    for each in renamed:
        if each.name not in pairs and left[each.kind, each.length]:
            pairs[each.name] = left[each.kind, each.length].pop()
    return pairs


def _fingerprint(content: Bytes, tensor: Tensor) -> bytes:
    inside = content[tensor.offset : tensor.offset + tensor.length]
    return hashlib.blake2b(inside.data, digest_size=16).digest()


def _found_elsewhere(
    base: Base, target: Bytes, offset: int, length: int, kind: Kind
) -> Iterator[Placed]:
    """Numbers without a partner: parts of them may be elsewhere, as rows in another order."""
    content = target[offset : offset + length]
    width, position = kind.width, 0
    runs = equal_runs(base, content)
    for run in (*runs, Run(content.size, 0, 0)):
        start = -(-run.target // width) * width
        end = (run.target + run.length) // width * width
        if start > position:
            _, mode = best_mode(kind, _NOTHING, content[position:start])
            yield offset + position, _step(mode, kind, start - position)
        if end > start:
            place = run.base + start - run.target
            yield offset + start, Step(Mode.COPY, Kind.BYTES, end - start, place)
        position = max(position, start, end)


def _of_tensor(
    base: Base, target: Bytes, tensor: Tensor, partner: Tensor | None
) -> Iterator[Placed]:
    start, end = tensor.offset, tensor.offset + tensor.length
    if partner is not None:
        shared = min(tensor.length, partner.length)
        yield from _changed(base, target, partner.offset, start, shared, tensor.kind)
        start += shared
    if start < end:
        _, mode = best_mode(tensor.kind, _NOTHING, target[start:end])
        yield start, _step(mode, tensor.kind, end - start)


def _changed(
    anywhere: Base, target: Bytes, base_offset: int, offset: int, length: int, kind: Kind
) -> Iterator[Placed]:
    """``length`` bytes as long in both: what stays at both ends is copied."""
    base = anywhere.content
    before, after = base[base_offset : base_offset + length], target[offset : offset + length]
    head = common_prefix(before, after)
    if head == length:
        yield offset, Step(Mode.COPY, Kind.BYTES, length, base_offset)
        return
    tail = common_prefix(before[::-1], after[::-1])
    head = head // kind.width * kind.width if head >= COPY_BYTES_MIN else 0
    tail = tail // kind.width * kind.width if tail >= COPY_BYTES_MIN else 0
    if head:
        yield offset, Step(Mode.COPY, Kind.BYTES, head, base_offset)
    middle = slice(head, length - tail)
    _, mode = best_mode(kind, before[middle], after[middle])
    changed = length - tail - head
    if mode in (Mode.PLANES, Mode.LITERAL) and changed >= COPY_BYTES_MIN:
        yield from _found_elsewhere(anywhere, target, offset + head, changed, kind)
    else:
        yield offset + head, _step(mode, kind, changed, base_offset + head)
    if tail:
        yield offset + length - tail, Step(Mode.COPY, Kind.BYTES, tail, base_offset + length - tail)


def _step(mode: Mode, kind: Kind, length: int, base_offset: int = 0) -> Step:
    if mode is Mode.LITERAL:
        return Step(mode, Kind.BYTES, length)
    return Step(mode, kind, length, 0 if mode is Mode.PLANES else base_offset)


# --- what lies between the tensors ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Gaps:
    """The bytes outside of tensors as one, and where each stretch of them stands in the file."""

    content: Bytes
    starts: list[int]  # in ``content``
    places: list[int]  # in the file

    @classmethod
    def of(cls, content: Bytes, tensors: Sequence[Tensor]) -> "_Gaps":
        parts, starts, places = [], [], []
        position = size = 0
        for offset, end in [*((t.offset, t.offset + t.length) for t in tensors), (content.size, 0)]:
            if offset > position:
                parts.append(content[position:offset])
                starts.append(size)
                places.append(position)
                size += offset - position
            position = end
        return cls(np.concatenate(parts) if parts else _NOTHING, starts, places)

    def stretches(self, start: int, length: int) -> Iterator[tuple[int, int]]:
        """Places in the file and lengths of ``length`` bytes from ``start`` on."""
        index = int(np.searchsorted(self.starts, start, side="right")) - 1
        end = start + length
        while start < end:
            following = self.starts[index + 1] if index + 1 < len(self.starts) else end
            stop = min(end, following)
            yield self.places[index] + start - self.starts[index], stop - start
            start, index = stop, index + 1


def _between(
    base: Bytes, target: Bytes, there: Sequence[Tensor], inside: Sequence[Tensor]
) -> Iterator[Placed]:
    old, new = _Gaps.of(base, there), _Gaps.of(target, inside)
    exact = equal_runs(Base(old.content, length_min=RUN_BYTES_MIN), new.content)
    position = 0
    runs = similar_runs(old.content, new.content, exact)
    for run in (*runs, Run(new.content.size, 0, 0)):
        for place, length in new.stretches(position, run.target - position):
            yield place, Step(Mode.LITERAL, Kind.BYTES, length)
        done = 0
        for place, length in new.stretches(run.target, run.length):
            end = done + length
            for base_place, part in old.stretches(run.base + done, length):
                yield from _similar(base, target, base_place, place + length - (end - done), part)
                done += part
        position = run.target + run.length


def _similar(
    base: Bytes, target: Bytes, base_offset: int, offset: int, length: int
) -> Iterator[Placed]:
    before, after = base[base_offset : base_offset + length], target[offset : offset + length]
    mode = Mode.COPY if np.array_equal(before, after) else Mode.DELTA
    yield offset, Step(mode, Kind.BYTES, length, base_offset)


# --- files without a parser -----------------------------------------------------------------------


def _unparsed(base: Bytes, target: Bytes) -> Iterator[Step]:
    position = base_position = 0
    end = Run(target.size, base.size, 0)
    for run in (*equal_runs(Base(base, length_min=RUN_BYTES_MIN_UNPARSED), target), end):
        gap, base_gap = run.target - position, run.base - base_position
        aligned = gap == base_gap
        yield from _stretch(base, target, base_position if aligned else None, position, gap)
        if run.length:
            yield Step(Mode.COPY, Kind.BYTES, run.length, run.base)
        position, base_position = run.target + run.length, run.base + run.length


def _stretch(
    base: Bytes, target: Bytes, base_offset: int | None, offset: int, length: int
) -> Iterator[Step]:
    """Bytes between two runs, ``base_offset`` being where as many stand in the base, if they do."""
    read: _Reading | None = None
    for done in range(0, length, PIECE_BYTES):
        size = min(PIECE_BYTES, length - done)
        after = target[offset + done : offset + done + size]
        start = None if base_offset is None else base_offset + done
        before = _NOTHING if start is None else base[start : start + size]
        again = _read_as(before, after, read.kind, read.phase) if read is not None else None
        if read is None or again is None or again.bits > read.bits * _SAME_TYPE_SHARE:
            read = _best_reading(before, after)
        else:
            read = again
        yield from _piece(read, size, start or 0)


@dataclass(frozen=True, slots=True, order=True)
class _Reading:
    """What bytes are taken for, and what a byte of them costs then. The first number begins
    ``phase`` bytes into them."""

    bits: float
    mode: Mode
    kind: Kind
    phase: int


def _best_reading(before: Bytes, after: Bytes) -> _Reading:
    tried = [(Kind.BYTES, 0), *((kind, at) for kind in _KINDS_TRIED for at in range(kind.width))]
    found = (_read_as(before, after, kind, phase) for kind, phase in tried)
    return min(reading for reading in found if reading is not None)


def _read_as(before: Bytes, after: Bytes, kind: Kind, phase: int) -> _Reading | None:
    end = phase + (after.size - phase) // kind.width * kind.width
    if end - phase < TENSOR_BYTES_MIN and kind is not Kind.BYTES:
        return None
    return _Reading(*best_mode(kind, before[phase:end], after[phase:end]), kind, phase)


def _piece(read: _Reading, size: int, start: int) -> Iterator[Step]:
    """What does not make a whole number at its ends are bytes."""
    end = read.phase + (size - read.phase) // read.kind.width * read.kind.width
    if read.phase:
        yield Step(Mode.LITERAL, Kind.BYTES, read.phase)
    yield _step(read.mode, read.kind, end - read.phase, start + read.phase)
    if size > end:
        yield Step(Mode.LITERAL, Kind.BYTES, size - end)


def _joined(steps: "Sequence[Step] | Iterator[Step]") -> list[Step]:
    """Neighbours that continue each other as one.

    Raises:
        NotToBePatched: they are more than `STEPS_MAX`, however many more.
    """
    joined: list[Step] = []
    for step in steps:
        last = joined[-1] if joined else None
        if (
            last is not None
            and (last.mode, last.kind) == (step.mode, step.kind)
            and (not step.reads_base or last.base_offset + last.length == step.base_offset)
        ):
            joined[-1] = Step(step.mode, step.kind, last.length + step.length, last.base_offset)
        else:
            joined.append(step)
        if len(joined) > STEPS_MAX:
            raise NotToBePatched(f"it would take more than {STEPS_MAX} steps")
    return joined
