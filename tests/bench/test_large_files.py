"""The measurement of files of gigabytes, with megabytes: that it measures, and says so."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def measured(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "bench/large_files.py", "--json", "--directory", str(directory)]
    return subprocess.run(
        [*command, *options], cwd=ROOT, check=False, capture_output=True, text=True, timeout=200
    )


@pytest.mark.slow
def test_it_installs_and_patches_and_tells_what_that_took(tmp_path: Path) -> None:
    done = measured(tmp_path, "--gib", "0.01", "--install-gib", "0.02")

    assert done.returncode == 0, done.stderr
    weights, seeded = json.loads(done.stdout)
    assert weights["patch_bytes"] < 0.56 * weights["bytes"]
    assert seeded["patch_bytes"] < seeded["bytes"] / 10
    assert max(weights["decoder_mib"], weights["agent_mib"], weights["install_mib"]) < 256
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_without_room_it_does_nothing(tmp_path: Path) -> None:
    done = measured(tmp_path, "--gib", "4000000")

    assert done.returncode == 2
    assert "GiB of disk are needed" in done.stderr
    assert list(tmp_path.iterdir()) == []
