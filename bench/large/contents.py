"""Files of gigabytes, seeded, made on the fly, and what is printed of them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

SEED = 23
TENSOR_BYTES = 256 << 20
PIECE_BYTES = 32 << 20
WEIGHT, UPDATE = np.float32(0.03), np.float32(3e-5)  # standard deviations, as of Adam 1e-5
GIB = 1 << 30
CHANGED_BYTES = 4096
TAIL_BYTES = 1 << 20
INSERTED = b"\x07inserts"[:7]  # an odd number: nothing behind it stands where a number may begin


def write_weights(base: Path, target: Path, length: int) -> None:
    """About ``length`` bytes of FP32 in tensors that no number of bytes is aligned to."""
    count = max(1, length // TENSOR_BYTES)
    each_bytes = length // count // PIECE_BYTES * PIECE_BYTES or length // 4 * 4
    header = {
        f"layer.{number}.weight": {
            "dtype": "F32",
            "shape": [each_bytes // 4],
            "data_offsets": [number * each_bytes, (number + 1) * each_bytes],
        }
        for number in range(count)
    }
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * ((3 - len(head)) % 4)  # weights begin three bytes behind a multiple of four
    rng = np.random.default_rng(SEED)
    with base.open("wb") as before, target.open("wb") as after:
        for file in (before, after):
            file.write(len(head).to_bytes(8, "little") + head)
        left = count * each_bytes
        while left:
            numbers = min(PIECE_BYTES, left) // 4
            weights = rng.standard_normal(numbers, np.float32) * WEIGHT
            before.write(weights.data)
            after.write((weights + rng.standard_normal(numbers, np.float32) * UPDATE).data)
            left -= 4 * numbers


def write_bytes(base: Path, target: Path, length: int) -> list[int]:
    """Bytes from 1 to 255. The target differs just behind every GiB, has seven bytes more in the
    middle, and another end. Returns where it was changed."""
    rng = np.random.default_rng(SEED)
    places = [*range(GIB, length - TAIL_BYTES, GIB), length - TAIL_BYTES]
    middle = places[len(places) // 2] if len(places) > 1 else length // 2
    position = 0
    with base.open("wb") as before, target.open("wb") as after:
        for place in [*places, length]:
            while position < place:
                piece = rng.integers(1, 256, min(PIECE_BYTES, place - position), np.uint8)
                before.write(piece.data)
                if position in places:
                    changed = TAIL_BYTES if place == length else CHANGED_BYTES
                    piece[:changed] = rng.integers(1, 256, min(changed, piece.size), np.uint8)
                    _insert(after, position == middle)
                after.write(piece.data)
                position += piece.size
    return places


def _insert(file: BinaryIO, wanted: bool) -> None:
    if wanted:
        file.write(INSERTED)


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    mb = found["bytes"] / 1e6
    yield f"{found['what']}: {found['bytes']:,} bytes, the patch {found['patch_bytes']:,}"
    yield f"  built      {found['build_seconds']:6.0f} s"
    yield (
        f"  downloaded {found['install_seconds']:6.0f} s over TLS into the store "
        f"({mb / found['install_seconds']:.0f} MB/s), checked in {found['check_seconds']:.0f} s; "
        f"peak {found['install_mib']} MiB"
    )
    yield (
        f"  patched    {found['patch_seconds']:6.0f} s; decoder {found['decoder_mib']} MiB "
        f"({found['decoder_above_bare_mib']} above a bare process, {found['declared_mib']} "
        f"declared), agent {found['agent_mib']} MiB"
    )
    yield f"  {'ok' if found['ok'] else 'OVER THE LIMIT'}"
