"""Pages of the documents, walked through as a newcomer does: every command as it is written."""

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# A machine may be ten times slower than the one that the page's `sleep` was written on.
STATE_SECONDS_MAX = 180
PAGE_SECONDS_MAX = 840

# What bash reads before the page.
PREAMBLE = f"""
set -m
ip link set lo up
trap 'echo "$? $BASH_COMMAND" >>"$WALK/failed"' ERR
come_to() {{
  for second in $(seq {STATE_SECONDS_MAX}); do
    if "state_$1" >/dev/null 2>&1; then echo "## state $1"; return 0; fi
    sleep 1
  done
  echo "## state $1 never came"; tail -n 5 ./*.log; exit 9
}}
"""


@dataclass(frozen=True)
class Walk:
    code: int
    said: str
    failed: tuple[str, ...]  # commands with another status than 0, each with it


def commands_of(pages: Sequence[Path], without: dict[str, str]) -> str:
    """The blocks of shell in their order, as they stand; lines of ``without`` left out."""
    text = "\n".join(block for page in pages for block in BLOCK.findall(page.read_text()))
    lines = text.splitlines()
    missing = without.keys() - set(lines)
    assert not missing, f"no such line any more: {missing}"
    return "\n".join(line for line in lines if line not in without)


def walk(*pages: Path, place: Path, without: dict[str, str], states: list[str]) -> Walk:
    """Run pages in one shell below ``place``, with a network and processes of its own.

    A line `sleep 5` stands for what the reader sees next, not for a time: the n-th of them waits
    until the n-th of ``states`` holds, a command of shell. All else is run as it is written.
    Skips where there are no namespaces to be had.
    """
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("the ports of the page need a network of their own: root, unshare and ip")
    body = commands_of(pages, without)
    numbers = itertools.count(1)
    body = re.sub(r"^sleep \d+$", lambda _: f"come_to {next(numbers)}", body, flags=re.MULTILINE)
    assert next(numbers) - 1 == len(states), "another number of `sleep`"
    functions = "\n".join(f"state_{n} () {{ {state}; }}" for n, state in enumerate(states, 1))
    script = place / "page.sh"
    script.write_text(f"{PREAMBLE}\n{functions}\n{body}\n")
    (place / "tmp").mkdir()
    environment = {
        "HOME": str(place),
        "LANG": "C.UTF-8",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
        "TMPDIR": str(place / "tmp"),
        "WALK": str(place),
    }
    shell = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with (place / "said").open("wb") as out:
        process = subprocess.Popen(
            [*shell, "bash", str(script)],
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(PAGE_SECONDS_MAX)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    failed = place / "failed"
    lines = failed.read_text().splitlines() if failed.exists() else []
    return Walk(code, (place / "said").read_text(), tuple(lines))
