"""Encoding of interleaved asymmetric numeral systems: the tables, and the words.

The statistics of a plane change along it (its numbers are sorted by exponent, and pooled over
layers), so each chunk of 1024 symbols uses the best of up to sixteen tables. The tables are
found by clustering the chunks' histograms.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mailboat_schemas.plane_blocks import (
    RANS_CHUNK_SYMBOLS,
    RANS_LANES_MAX,
    RANS_SCALE,
    RANS_SCALE_BITS,
    RANS_STATE_MIN,
    RANS_TABLES_MAX,
)

_SYMBOLS = 256
_COSTED_CHUNKS = 32  # at once: too small a product for the library to start threads for it
_ROUNDS = 4  # of clustering; a fifth changes less than one part in ten thousand
_LANE_BYTES = 2.1  # lost to each lane's last state, on average
_LANE_SHARE = 300  # of the payload that may be lost that way, its inverse
_STEPS = 32  # whose constants are looked up at once: 1 MiB of them for 1,024 lanes
_WORD = 65536.0
_WORD_INVERSE = 1 / _WORD  # a power of two: exact
_BITS_SCALE = 256  # of a bit, to count in whole numbers: see `_bits`
_ROWS_MAX = 32  # chunks one lane decodes one after the other; a step takes 10 us, however narrow

Histograms = npt.NDArray[np.int64]
Bits = npt.NDArray[np.float32]  # whole numbers, see `_bits`


@dataclass(frozen=True, slots=True)
class Model:
    """How to code one block. ``estimate_bytes`` is without the tables' own compression."""

    frequencies: npt.NDArray[np.uint32]  # tables x 256, each row summing up to `RANS_SCALE`
    tables: npt.NDArray[np.uint8]  # one for each chunk
    lanes: int
    estimate_bytes: int


@dataclass(frozen=True, slots=True)
class Encoded:
    states: npt.NDArray[np.uint32]
    words: npt.NDArray[np.uint16]


def model_of(symbols: npt.NDArray[np.uint8]) -> Model:
    """The number of tables that costs least, tables included."""
    histograms = _histograms(symbols)
    members = np.zeros(len(histograms), np.int64)
    best = _model(histograms, members)
    own = _entropies(histograms)
    while (number := int(members.max()) + 1) < RANS_TABLES_MAX and 2 * number < len(histograms):
        members = _settled(histograms, _split(members, own))
        if members.max() < number:
            break  # nothing is left to tell apart
        model = _model(histograms, members)
        if model.estimate_bytes < best.estimate_bytes:
            best = model
        elif len(model.frequencies) > 2 * len(best.frequencies):
            break
    return best


def encode(symbols: npt.NDArray[np.uint8], model: Model) -> Encoded:
    """All lanes step together, from the last symbol to the first."""
    lanes, chunks = model.lanes, len(model.tables)
    rows = -(-chunks // lanes)
    tables = np.zeros(rows * lanes, np.uint32)
    tables[:chunks] = model.tables
    # What fills up the last chunk and lane is the cheapest symbol of its table.
    cheapest = model.frequencies.argmax(axis=1).astype(np.uint8)
    padded = np.repeat(cheapest[tables], RANS_CHUNK_SYMBOLS)
    padded[: symbols.size] = symbols
    steps = np.ascontiguousarray(padded.reshape(lanes, -1).T)
    table_rows = tables.reshape(lanes, rows)
    coding = _Coding.of(model.frequencies)
    # States are whole numbers below 2**32: a double holds them exactly, and multiplies far quicker
    # than integers divide.
    states = np.full(lanes, float(RANS_STATE_MIN))
    quotients, is_full = np.empty(lanes), np.empty(lanes, np.bool_)
    words: list[npt.NDArray[np.float64]] = []
    for row in reversed(range(rows)):
        offsets = table_rows[:, row] * np.uint32(_SYMBOLS)
        begin = row * RANS_CHUNK_SYMBOLS
        for first in reversed(range(begin, begin + RANS_CHUNK_SYMBOLS, _STEPS)):
            places = (steps[first : first + _STEPS] + offsets).astype(np.intp)
            limits, inverses, gains, starts = (column.take(places) for column in coding.columns)
            for step in reversed(range(_STEPS)):
                np.greater_equal(states, limits[step], out=is_full)
                full = is_full.nonzero()[0]
                if full.size:
                    over = states[full]
                    upper = np.floor(over * _WORD_INVERSE)
                    words.append(over - upper * _WORD)
                    states[full] = upper
                # The half keeps a quotient that is whole from falling below itself.
                np.add(states, 0.5, out=quotients)
                quotients *= inverses[step]
                np.floor(quotients, out=quotients)
                quotients *= gains[step]
                states += quotients
                states += starts[step]
    words.reverse()
    stream = np.concatenate(words) if words else np.empty(0)
    return Encoded(states.astype(np.uint32), stream.astype(np.uint16))


@dataclass(frozen=True, slots=True)
class _Coding:
    """What one symbol does to a state, by table and symbol: a column each."""

    columns: tuple[npt.NDArray[np.float64], ...]

    @classmethod
    def of(cls, frequencies: npt.NDArray[np.uint32]) -> "_Coding":
        """At ``limits`` a state gives up a word. Then, with the quotient of the state and its
        frequency, the state grows by quotient times gain, and start."""
        starts = np.cumsum(frequencies, axis=1, dtype=np.uint32) - frequencies
        each = frequencies.reshape(-1).astype(np.float64)
        limits = each * float(1 << (32 - RANS_SCALE_BITS))
        inverses = 1.0 / np.maximum(each, 1.0)
        return cls((limits, inverses, RANS_SCALE - each, starts.reshape(-1).astype(np.float64)))


def _histograms(symbols: npt.NDArray[np.uint8]) -> Histograms:
    """A row of 256 for each chunk."""
    chunks = -(-symbols.size // RANS_CHUNK_SYMBOLS)
    place = np.repeat(np.arange(chunks, dtype=np.int64) * _SYMBOLS, RANS_CHUNK_SYMBOLS)
    counts = np.bincount(place[: symbols.size] + symbols, minlength=chunks * _SYMBOLS)
    return counts.reshape(chunks, _SYMBOLS)


def _entropies(histograms: Histograms) -> npt.NDArray[np.int64]:
    """Bits that each chunk would take with a table of its own."""
    total = np.maximum(histograms.sum(axis=1, keepdims=True), 1)
    bits = -(histograms * np.log2(np.maximum(histograms, 1) / total)).sum(axis=1)
    whole: npt.NDArray[np.int64] = np.rint(bits).astype(np.int64)
    return whole


def _split(members: npt.NDArray[np.int64], own: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Each cluster in two, where half of its bits are on either side, ordered by entropy."""
    split = members.copy()
    number = int(members.max()) + 1
    for each in range(min(number, RANS_TABLES_MAX - number)):
        inside = (members == each).nonzero()[0]
        ordered = inside[np.argsort(own[inside], kind="stable")]
        bits = np.cumsum(own[ordered])
        upper = ordered[bits > bits[-1] / 2] if len(ordered) > 1 else ordered[:0]
        split[upper] = number + each
    return split


def _settled(histograms: Histograms, members: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Each chunk with the table that codes it best; numbered without gaps."""
    counts = histograms.astype(np.float32)
    for _ in range(_ROUNDS):
        bits = _bits(_tables(histograms, members)).T
        costs = [
            counts[at : at + _COSTED_CHUNKS] @ bits for at in range(0, len(counts), _COSTED_CHUNKS)
        ]
        members = np.concatenate(costs).argmin(axis=1)
    return np.unique(members, return_inverse=True)[1]


def _tables(histograms: Histograms, members: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    used = np.unique(members)
    return np.stack([_scaled(histograms[members == each].sum(axis=0)) for each in used])


def _bits(frequencies: npt.NDArray[np.uint32]) -> Bits:
    """Of each symbol, in parts of `_BITS_SCALE`; much, and finite, for one that a table lacks.

    Whole numbers, so small that a chunk of them adds up to less than 2**24: sums are exact, and
    the same in whatever order a machine adds.
    """
    bits = RANS_SCALE_BITS - np.log2(np.maximum(frequencies, 2.0**-6))
    whole: Bits = np.rint(bits * _BITS_SCALE).astype(np.float32)
    return whole


def _model(histograms: Histograms, members: npt.NDArray[np.int64]) -> Model:
    frequencies = _tables(histograms, members)
    # The first table fills up lanes: the one with the cheapest symbol.
    order = np.argsort(-frequencies.max(axis=1).astype(np.int64), kind="stable")
    place = np.empty(len(order), np.uint8)
    place[order] = np.arange(len(order), dtype=np.uint8)
    frequencies, tables = frequencies[order], place[members]
    coded = np.einsum("cs,cs->c", histograms.astype(np.float32), _bits(frequencies)[tables])
    payload = float(coded.sum(dtype=np.float64)) / _BITS_SCALE / 8
    side = 16 + int((frequencies > 0).sum()) + (len(tables) // 3 if len(order) > 1 else 0)
    lanes = _lanes(payload, len(tables))
    return Model(frequencies, tables, lanes, int(payload + side + 4 * lanes))


def _lanes(payload_bytes: float, chunks: int) -> int:
    """As many as cost little, and no row of them that is mostly empty."""
    allowed = int(payload_bytes / _LANE_SHARE / _LANE_BYTES)
    wanted = max(-(-chunks // _ROWS_MAX), min(RANS_LANES_MAX, chunks, allowed))
    return -(-chunks // -(-chunks // wanted))


def _scaled(counts: Histograms) -> npt.NDArray[np.uint32]:
    """Frequencies that sum up to `RANS_SCALE`, at least 1 for whatever occurs."""
    total = int(counts.sum())
    frequencies = np.maximum(counts * RANS_SCALE // total, counts > 0)
    excess = int(frequencies.sum()) - RANS_SCALE
    while excess > 0:  # taken from the largest, where it costs least
        largest = int(frequencies.argmax())
        taken = min(excess, max(1, int(frequencies[largest]) // 8))
        frequencies[largest] -= taken
        excess -= taken
    frequencies[int(frequencies.argmax())] -= excess
    return frequencies.astype(np.uint32)
