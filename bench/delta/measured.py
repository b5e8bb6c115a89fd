"""Running a program and learning its peak memory, exactly, whatever language it is written in.

``ru_maxrss`` of a child counts the memory of whoever started it, and a poll of /proc comes too late
for a program of a few milliseconds. So the program is traced: the kernel stops it on its way out,
when its high water mark is final and still there. Source: ptrace(2), PTRACE_O_TRACEEXIT.
"""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

SECONDS_MAX = 3600.0  # bsdiff4 takes a quarter of an hour for 90 MB on an idle machine
STDERR_CHARS_MAX = 300
_TRACEME, _CONT, _SETOPTIONS = 0, 7, 0x4200
_ON_EXEC, _ON_EXIT, _KILL_ON_OUR_EXIT = 0x10, 0x40, 0x100000
_EVENT_EXIT = 6
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


class Failed(Exception):
    """The program did not do it; the message is its own."""


@dataclass(frozen=True, slots=True)
class Run:
    seconds: float
    peak_kib: int | None  # of the program itself, not of what it started; None: not to be had


def run(command: Sequence[str], *, stdout: Path | None = None) -> Run:
    """Run it to its end, niced like its caller.

    Raises:
        Failed: it is not there, ended badly, or not within `SECONDS_MAX`.
    """
    began = time.perf_counter()
    with (stdout or Path(os.devnull)).open("wb") as output:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE,
                # One system call between fork and exec, and no thread of ours runs then.
                preexec_fn=lambda: _libc.ptrace(_TRACEME, 0, None, None),  # noqa: PLW1509
            )
        except OSError as error:
            raise Failed(f"{command[0]}: {error.strerror}") from error
    deadline = Timer(SECONDS_MAX, process.kill)
    deadline.start()
    try:
        status, peak_kib = _follow(process.pid)
    finally:
        deadline.cancel()
        process.returncode = 0  # it was waited for here
        errors = process.stderr.read() if process.stderr else b""
    seconds = time.perf_counter() - began
    if status == -signal.SIGKILL and seconds >= SECONDS_MAX:
        raise Failed(f"no end after {SECONDS_MAX:g} s")
    if status != 0:
        said = errors.decode(errors="replace").strip()[-STDERR_CHARS_MAX:]
        raise Failed(f"{Path(command[0]).name} ended with {status}: {said}")
    return Run(seconds, peak_kib)


def _follow(pid: int) -> tuple[int, int | None]:
    peak_kib: int | None = None
    traced = False
    while True:
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            return os.waitstatus_to_exitcode(status), peak_kib
        if not traced:  # the stop at its first exec
            _libc.ptrace(_SETOPTIONS, pid, None, _ON_EXEC | _ON_EXIT | _KILL_ON_OUR_EXIT)
            traced = True
        if status >> 16 == _EVENT_EXIT:
            peak_kib = high_water_kib(Path(f"/proc/{pid}/status").read_text())
        received = os.WSTOPSIG(status)
        _libc.ptrace(_CONT, pid, None, 0 if received == signal.SIGTRAP else received)


def high_water_kib(status: str) -> int | None:
    """Of what /proc/PID/status says."""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return None
