"""A piece of code run in a child under strace: forked from this warm process, traced from its first
line on, so that neither start-up nor imports are in the log.

Never together with ``--seccomp-bpf``: strace 6.1 then silently drops ``signal=`` injections.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from tests.faults.traced_log import TRACED

STRING_BYTES_MAX = 99_999_999  # of one write; strace prints "..." after what is longer
FAILED = 70  # of a child whose action raised


@cache
def why_not_traceable() -> str:
    """Why strace cannot be used here; "" when it can. A container may forbid ptrace."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    with tempfile.TemporaryDirectory() as directory:
        try:
            status = traced(lambda: None, Path(directory) / "log")
        except NotTraced as error:
            return str(error)
    return "" if status == 0 else f"a traced child ended with status {status}"


class NotTraced(Exception):
    """strace could not attach."""


class StoryFailed(Exception):
    """A story did not come to its end, though nothing was done to it."""


def traced(
    act: Callable[[], object],
    log: Path,
    *,
    options: Sequence[str] = ("-y", "-xx", "-s", str(STRING_BYTES_MAX)),
    calls: str = TRACED,
    inject: str = "",
) -> int:
    """Run ``act`` in a child and write its system calls to ``log``; returns the exit status.

    ``inject`` is what strace's option of that name takes, such as ``fsync:signal=KILL:when=3``
    (counted for each thread of its own). A child that was killed returns the negative signal.

    Raises:
        NotTraced: the child never ran.
    """
    gate_read, gate_write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(gate_write)
        _act_when_told(act, gate_read)
    os.close(gate_read)
    command = ["strace", "-f", *options, "-e", f"trace={calls}", "-o", str(log), "-p", str(child)]
    if inject:
        command[1:1] = ["-e", f"inject={inject}"]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert tracer.stderr is not None
    with tracer.stderr:
        said = tracer.stderr.readline().decode(errors="replace")
        if "attached" not in said:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            tracer.wait()
            raise NotTraced(said.strip() or "strace said nothing")
        os.write(gate_write, b"!")
        os.close(gate_write)
        tracer.stderr.read()
        tracer.wait()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _act_when_told(act: Callable[[], object], gate: int) -> None:
    """In the child; never returns."""
    status = FAILED
    try:
        if os.read(gate, 1):
            os.close(gate)
            act()
            status = 0
    except BaseException:  # noqa: BLE001 - the child must never return into its parent's code
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)
