"""Files of many gigabytes: what they take does not grow with them, and every offset is right.

`bench/large_files.py` does the same with 2 and 8 GiB of data without a hole, and takes its time.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mailboat_agent.delta.blocks import read_block
from mailboat_agent.delta.tensor_patch import apply
from mailboat_controller.deltas import portfolio
from mailboat_schemas.patch_formats import TENSOR_DELTA
from mailboat_schemas.tensor_program import HEADER_BYTES, Header, decode_program

MIB, GIB = 1 << 20, 1 << 30
PROGRAM = """
import json, resource, sys
from pathlib import Path
from mailboat_controller.deltas import portfolio

base, target, scratch = map(Path, sys.argv[1:4])
room = portfolio.memory_to_build(base.stat().st_size, target.stat().st_size)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
built = portfolio.build(base, target, scratch)
print(json.dumps({c.format: c.size_bytes / c.target_length for c in built.candidates}))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_building_stays_within_the_memory_that_is_planned_for_it(tmp_path: Path) -> None:
    """Each part in its most greedy case: a base for zstd, and one that is too large for it."""
    weights = np.random.default_rng(5).standard_normal(MIB // 4, np.float32)
    for name, mebibytes in (("small", 31), ("large", 72)):
        base, target, scratch = (tmp_path / f"{name}-{each}" for each in "bts")
        scratch.mkdir()
        with base.open("wb") as before, target.open("wb") as after:
            for _ in range(mebibytes):  # the same again and again: zstd is quick then
                before.write(weights.data)
                after.write((weights * np.float32(1.5)).data)
        command = [sys.executable, "-c", PROGRAM, base, target, scratch]
        done = subprocess.run(command, check=True, capture_output=True)

        expected = {"full-planes/1", "full-zstd/1", "tensor-delta/1"}
        assert set(json.loads(done.stdout)) == expected | (
            {"zstd-patch/1"} if mebibytes < 64 else set()
        )


# --- beyond two and four gibibytes ---------------------------------------------------------------

ISLAND_BYTES = 2 * MIB
PLACES = (GIB, 2 * GIB + 12_346, 3 * GIB, 4 * GIB + 54_322)  # of what is not a hole
LENGTH = PLACES[-1] + ISLAND_BYTES + 77


def islands(path: Path, extra: bytes, scale: float) -> None:
    """FP32 tensors at odd places of a file of holes, which takes hardly any room."""
    entries, position = {}, 0
    for number, place in enumerate(PLACES):
        entries[f"hole{number}"] = (position, place)
        entries[f"weights{number}"] = (place, place + ISLAND_BYTES)
        position = place + ISLAND_BYTES
    entries["end"] = (position, LENGTH)
    kinds = {name: "F32" if name.startswith("weights") else "U8" for name in entries}
    head = json.dumps(
        {name: {"dtype": kinds[name], "data_offsets": place} for name, place in entries.items()}
    ).encode()
    head += b" " * ((3 - len(head)) % 4) + extra
    rng, update = np.random.default_rng(7), np.random.default_rng(8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for place in PLACES:
            weights = rng.standard_normal(ISLAND_BYTES // 4, np.float32) * np.float32(0.03)
            weights += update.standard_normal(weights.size, np.float32) * np.float32(scale)
            file.seek(8 + len(head) + place)
            file.write(weights.data)
        file.truncate(8 + len(head) + LENGTH)


@pytest.mark.slow
def test_a_patch_reads_and_makes_places_beyond_two_and_four_gibibytes(tmp_path: Path) -> None:
    base, target = tmp_path / "base", tmp_path / "target"
    islands(base, b"", 0.0)
    islands(target, b" ", 3e-5)  # everything stands one byte further on
    built = portfolio.build(base, target, tmp_path, {TENSOR_DELTA}).candidates[0]
    digest = hashlib.sha256()
    base_fd = os.open(base, os.O_RDONLY)
    try:
        with built.patch.open("rb") as patch:
            lengths = {"base_length": base.stat().st_size, "target_length": target.stat().st_size}
            apply(base_fd, patch, digest.update, **lengths)
            patch.seek(0)
            header = Header.decode(patch.read(HEADER_BYTES))
            program = read_block(patch, header.program_length).tobytes()
            steps = decode_program(program, header.step_count, **lengths)
    finally:
        os.close(base_fd)

    with target.open("rb") as file:
        assert digest.digest() == hashlib.file_digest(file, "sha256").digest()
    assert built.size_bytes < 0.56 * ISLAND_BYTES * len(PLACES)
    assert built.memory_bytes < 40 * MIB
    changed = [step for step in steps if step.mode.name.endswith("DELTA") and step.length > MIB]
    assert [step.base_offset > 4 * GIB for step in changed] == [False, False, False, True]
    assert all(step.base_offset % 4 for step in changed)
