"""Bytes as numbers: what the device will undo, and what it would cost to send.

Source of the transform: FM-Delta (NeurIPS 2024), floats as integers in the same order; sorted by
the base's exponent, because an update of one size changes large weights by fewer units in the
last place than small ones.
"""

import numpy as np
import numpy.typing as npt
import zstandard

from mailboat_schemas.tensor_program import Kind, Mode

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.unsignedinteger]
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
SAMPLE_NUMBERS = 1 << 16
_SAMPLE_RUNS = 4
_QUICK = zstandard.ZstdCompressor(level=9)
_CHUNK_NUMBERS = 4096  # costs are those of tables for so many each


def planes(mode: Mode, kind: Kind, base: Bytes, target: Bytes) -> list[Bytes]:
    """The bytes of each stream of `streams_of`, in its order. ``base`` is empty without one."""
    numbers = target.view(_UNSIGNED[kind.width])
    if mode in (Mode.DELTA, Mode.SORTED_DELTA):
        before = base.view(numbers.dtype)
        numbers = _change(before, numbers, kind)
        if mode is Mode.SORTED_DELTA:
            numbers = numbers[_exponents(before, kind).argsort(kind="stable")]
    elif mode is Mode.PLANES:
        numbers = _rotated(numbers, kind)
    split = np.ascontiguousarray(numbers).view(np.uint8).reshape(-1, kind.width)
    return [np.ascontiguousarray(split[:, plane]) for plane in reversed(range(kind.width))]


def cost_bits(mode: Mode, kind: Kind, base: Bytes, target: Bytes) -> float:
    """About how many bits for each byte it takes to send a sample of it."""
    base, target = _sample(base, kind.width), _sample(target, kind.width)
    found = planes(mode, kind, base, target)
    return sum(map(_entropy_bits, found)) / max(1, target.size)


def best_mode(kind: Kind, base: Bytes, target: Bytes) -> tuple[float, Mode]:
    """With bits for each byte. ``base`` is empty if there is nothing to start from."""
    modes = [Mode.PLANES]
    if base.size:
        modes += [Mode.DELTA] if kind.exponent is None else [Mode.DELTA, Mode.SORTED_DELTA]
    costs = [(cost_bits(mode, kind, base, target), mode) for mode in modes]
    return min(*costs, (literal_bits(target), Mode.LITERAL))


def literal_bits(target: Bytes) -> float:
    """Likewise for bytes that may repeat themselves: tables of cosines are weights, too."""
    sample = _sample(target, 1)
    return 8 * len(_QUICK.compress(sample.tobytes())) / max(1, sample.size)


def _change(before: Numbers, after: Numbers, kind: Kind) -> Numbers:
    """How far it is, zigzag: small for small steps in both directions."""
    difference: Numbers = _to_ordered(after, kind) - _to_ordered(before, kind)
    one, top = difference.dtype.type(1), difference.dtype.type(8 * kind.width - 1)
    folded: Numbers = (difference << one) ^ (~(difference >> top) + one)
    return folded


def _to_ordered(numbers: Numbers, kind: Kind) -> Numbers:
    if kind.exponent is None:
        return numbers
    top = numbers.dtype.type(1 << (8 * kind.width - 1))
    return np.where(numbers & top, ~numbers, numbers | top)


def _rotated(numbers: Numbers, kind: Kind) -> Numbers:
    """The sign goes to the other end: the exponent has a byte of its own then."""
    if kind.exponent is None:
        return numbers
    one, bits = numbers.dtype.type(1), numbers.dtype.type(8 * kind.width - 1)
    return numbers << one | numbers >> bits


def _exponents(numbers: Numbers, kind: Kind) -> npt.NDArray[np.unsignedinteger]:
    assert kind.exponent is not None  # noqa: S101 - whoever plans does not sort integers
    shift, mask = kind.exponent
    found = (numbers >> numbers.dtype.type(shift)) & numbers.dtype.type(mask)
    return found.astype(np.uint8 if mask <= 0xFF else np.uint16)


def _sample(content: Bytes, width: int) -> Bytes:
    """A few runs spread over it."""
    if content.size <= SAMPLE_NUMBERS * width:
        return content
    run = SAMPLE_NUMBERS // _SAMPLE_RUNS * width
    last = (content.size - run) // width
    starts = [last * index // (_SAMPLE_RUNS - 1) * width for index in range(_SAMPLE_RUNS)]
    return np.concatenate([content[start : start + run] for start in starts])


def _entropy_bits(plane: Bytes) -> float:
    """Of each chunk by itself, with what its table costs (Miller and Madow's correction)."""
    chunks = max(1, plane.size // _CHUNK_NUMBERS)
    place = np.arange(plane.size, dtype=np.int64) * chunks // max(1, plane.size) * 256
    counts = np.bincount(place + plane, minlength=256 * chunks).reshape(chunks, 256)
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    bits = -(counts * np.log2(np.maximum(counts, 1) / total)).sum()
    return float(bits + 0.72 * ((counts > 0).sum() - chunks))
