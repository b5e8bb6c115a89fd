"""Decoding of interleaved asymmetric numeral systems, all lanes at once. Integer operations only.

It reads whatever it is given: tables are checked, places in them are bounded by construction, and
words that run out are an error. Wrong words make wrong bytes, which the digest finds.
"""

import numpy as np
import numpy.typing as npt

from mailboat_schemas.plane_blocks import (
    RANS_CHUNK_SYMBOLS,
    RANS_SCALE,
    RANS_SCALE_BITS,
    RANS_STATE_MIN,
)
from mailboat_schemas.tensor_program import MalformedPatch

_SYMBOLS = 256


def chunk_count(length: int) -> int:
    return -(-length // RANS_CHUNK_SYMBOLS)


def decode(
    length: int,
    frequencies: npt.NDArray[np.uint16],
    tables: npt.NDArray[np.uint8],
    states: npt.NDArray[np.uint32],
    words: npt.NDArray[np.uint16],
) -> npt.NDArray[np.uint8]:
    """``length`` symbols.

    ``frequencies`` has a row of 256 for each table, ``tables`` one number for each chunk,
    ``states`` one for each lane.

    Raises:
        MalformedPatch
    """
    if (frequencies.sum(axis=1, dtype=np.int64) != RANS_SCALE).any():
        raise MalformedPatch("a table that does not sum up")
    if (tables >= len(frequencies)).any() or (states < RANS_STATE_MIN).any():
        raise MalformedPatch("a table or a state that does not exist")
    symbol_of, multiplier_of, addend_of = _slots(frequencies)
    lanes = len(states)
    rows = -(-len(tables) // lanes)  # of chunks, one below the other in each lane
    table_of = np.zeros(rows * lanes, np.intp)
    table_of[: len(tables)] = tables
    table_of = table_of.reshape(lanes, rows) << RANS_SCALE_BITS
    out = np.empty((rows * RANS_CHUNK_SYMBOLS, lanes), np.uint8)
    # Of the type of an index, and without new arrays: the loop is all overhead.
    state = states.astype(np.int64)
    slot, factor = np.empty(lanes, np.intp), np.empty(lanes, np.int64)
    is_short = np.empty(lanes, np.bool_)
    used, step = 0, 0
    for row in range(rows):
        start = np.ascontiguousarray(table_of[:, row])
        for _ in range(RANS_CHUNK_SYMBOLS):
            np.bitwise_and(state, RANS_SCALE - 1, out=slot)
            np.bitwise_or(slot, start, out=slot)
            symbol_of.take(slot, out=out[step], mode="clip")
            state >>= RANS_SCALE_BITS
            state *= multiplier_of.take(slot, out=factor, mode="clip")
            state += addend_of.take(slot, out=factor, mode="clip")
            np.less(state, RANS_STATE_MIN, out=is_short)
            short = is_short.nonzero()[0]
            if short.size:
                end = used + short.size
                if end > words.size:
                    raise MalformedPatch("its words run out")
                state[short] = (state[short] << 16) | words[used:end]
                used = end
            step += 1
    if used != words.size or (state != RANS_STATE_MIN).any():
        raise MalformedPatch("words are left over")
    return np.ascontiguousarray(out.T).reshape(-1)[:length]


def _slots(
    frequencies: npt.NDArray[np.uint16],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each table and slot: the symbol, its frequency, and how far the slot is into it."""
    symbols, multipliers, addends = [], [], []
    for row in frequencies:
        symbol = np.repeat(np.arange(_SYMBOLS, dtype=np.uint8), row)
        starts = np.cumsum(row, dtype=np.int64) - row
        symbols.append(symbol)
        multipliers.append(row.astype(np.int64)[symbol])
        addends.append(np.arange(RANS_SCALE) - starts[symbol])
    return np.concatenate(symbols), np.concatenate(multipliers), np.concatenate(addends)
