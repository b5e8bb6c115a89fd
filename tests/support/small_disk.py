"""A real file system that is really full: a small tmpfs in a mount namespace of its own."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

STORY_SECONDS_MAX = 300  # of programs that load models again and again, on a busy machine


def run_on_small_disk(directory: Path, size_bytes: int, program: str) -> None:
    """Run Python ``program`` with ``DISK`` (a Path) mounted as a disk of that size.

    Skips, with the reason, where mounting is not allowed.
    """
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("a small disk needs root and unshare")
    directory.mkdir()
    mount = f"mount -t tmpfs -o size={size_bytes} tmpfs {directory}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], check=False).returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    prelude = (
        "import os, pathlib\n"
        f"DISK = pathlib.Path({str(directory)!r})\n"
        "def fill():\n"
        "    with open(DISK / 'filler', 'ab', buffering=0) as file:\n"
        "        for size in (65536, 4096, 1):\n"
        "            try:\n"
        "                while True:\n"
        "                    file.write(bytes(size))\n"
        "            except OSError:\n"
        "                pass\n"
    )
    script = directory.with_suffix(".py")
    script.write_text(prelude + textwrap.dedent(program))
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{mount} && exec {sys.executable} {script}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=STORY_SECONDS_MAX,
    )
    assert done.returncode == 0, done.stdout + done.stderr
