"""Packing of blocks: each the smallest of what the device can unpack.

Planes and text differ. Planes are noise with a distribution: RANS comes to their entropy. Text
repeats itself: the dictionary coders find that. A quick zstd tells which one it is.
"""

import lzma

import numpy as np
import numpy.typing as npt
import zstandard

from mailboat_controller.deltas import rans
from mailboat_schemas.plane_blocks import (
    LZMA_FILTERS,
    PAYLOAD_LENGTH_BYTES,
    SPARSE_SHARE,
    SPARSE_SKIP,
    Codec,
)

Bytes = npt.NDArray[np.uint8]
_QUICK_LEVEL, _THOROUGH_LEVEL = 3, 19
_RANS_BYTES_MIN = 1024
# A quick dictionary coder that gets below the entropy by so much has found repetition.
_REPEATS_SHARE = 0.98
_NOISE_SHARE = 0.998  # a block that shrinks by less stays as it is: it is quicker to read


def pack(content: Bytes, *, text: bool = False) -> bytes:
    """One block. ``text`` says that repetition is expected. The same bytes each time."""
    if not content.any():
        return bytes([Codec.ZERO])
    raw = content.tobytes()
    choices = [bytes([Codec.RAW]) + raw]
    quick = _zstd(raw, _QUICK_LEVEL)
    choices.append(quick)
    model = rans.model_of(content) if content.size >= _RANS_BYTES_MIN else None
    estimate = model.estimate_bytes if model is not None else content.size
    sparse = _sparse(content)
    if sparse is not None:
        choices.append(sparse)
    smallest = min(map(len, choices[1:]))
    if model is not None and estimate < min(smallest * 1.02, content.size * _NOISE_SHARE):
        choices.append(_rans(content, model))
    if text or content.size < _RANS_BYTES_MIN or len(quick) < estimate * _REPEATS_SHARE:
        choices += [_zstd(raw, _THOROUGH_LEVEL), _lzma(raw)]
    packed = min(choices, key=len)
    return packed if len(packed) < _NOISE_SHARE * content.size else choices[0]


def _block(codec: Codec, payload: bytes) -> bytes:
    return bytes([codec]) + len(payload).to_bytes(PAYLOAD_LENGTH_BYTES, "little") + payload


def _zstd(raw: bytes, level: int) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=len(raw),
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=False,
        write_checksum=False,
        write_dict_id=False,
    )
    return _block(Codec.ZSTD, zstandard.ZstdCompressor(compression_params=parameters).compress(raw))


def _lzma(raw: bytes) -> bytes:
    return _block(Codec.LZMA, lzma.compress(raw, format=lzma.FORMAT_RAW, filters=LZMA_FILTERS))


def _rans(content: Bytes, model: rans.Model) -> bytes:
    encoded = rans.encode(content, model)
    frequencies = model.frequencies.reshape(-1)
    side = np.concatenate([frequencies & 0xFF, frequencies >> 8, model.tables]).astype(np.uint8)
    head = bytes([len(model.frequencies)]) + model.lanes.to_bytes(2, "little")
    packed_side = _smallest_of_two(side.tobytes())
    states = encoded.states.astype("<u4").tobytes()
    return _block(Codec.RANS, head + packed_side + states + encoded.words.astype("<u2").tobytes())


def _smallest_of_two(raw: bytes) -> bytes:
    return min(_zstd(raw, _THOROUGH_LEVEL), _lzma(raw), key=len)


def _sparse(content: Bytes) -> bytes | None:
    """None unless there is little enough in it."""
    places = content.nonzero()[0]
    if places.size > content.size // SPARSE_SHARE // 2:
        return None
    distances = np.diff(places, prepend=-1) - 1
    skips = distances // SPARSE_SKIP
    ends = np.cumsum(skips + 1) - 1  # where each value's own gap stands
    gaps = np.full(int(ends[-1]) + 1, SPARSE_SKIP, np.uint8)
    gaps[ends] = distances - skips * SPARSE_SKIP
    if gaps.size > content.size // SPARSE_SHARE:
        return None
    count = gaps.size.to_bytes(PAYLOAD_LENGTH_BYTES, "little")
    return _block(Codec.SPARSE, count + _nested(gaps) + _nested(content[places]))


def _nested(content: Bytes) -> bytes:
    raw = content.tobytes()
    choices = [bytes([Codec.RAW]) + raw, _zstd(raw, _THOROUGH_LEVEL), _lzma(raw)]
    if content.size >= _RANS_BYTES_MIN:
        choices.append(_rans(content, rans.model_of(content)))
    return min(choices, key=len)
