"""The same files give the same patches, in whatever process they are built."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from weights import fine_tuned, onnx_with_hidden_tensors, weights

PROGRAM = """
import hashlib, json, sys
from pathlib import Path
from mailboat_controller.deltas.portfolio import build

built = build(*map(Path, sys.argv[1:]))
digests = {c.format: hashlib.sha256(c.patch.read_bytes()).hexdigest() for c in built.candidates}
print(json.dumps(digests))
"""


def digests(folder: Path, seed: str, threads: str) -> dict[str, str]:
    """Of all patches, built by a process with this hash seed and so many threads for products."""
    scratch = folder / f"scratch-{seed}"
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, folder / "base", folder / "target", scratch],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": seed, "OPENBLAS_NUM_THREADS": threads},
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_two_processes_build_the_same_patches(tmp_path: Path) -> None:
    before = weights(numbers=300_000)
    (tmp_path / "base").write_bytes(onnx_with_hidden_tensors(before))
    (tmp_path / "target").write_bytes(onnx_with_hidden_tensors(fine_tuned(before), "renamed"))

    one, other = digests(tmp_path, "1", "1"), digests(tmp_path, "2", "4")

    assert len(one) == 4
    assert one == other
    assert all(digest != hashlib.sha256(b"").hexdigest() for digest in one.values())
