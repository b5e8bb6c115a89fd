"""The agent's side of decoding: starts the process, counts and hashes what comes out, and ends it.

Blocking: run it beside the event loop. The process belongs to the thread that called, and dies
with it.
"""

import os
import select
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from signal import SIGXCPU

from mailboat_agent.artifacts.part_file import Hashed, PartFile
from mailboat_agent.atomic_file import disk_errors
from mailboat_agent.delta import exit_status
from mailboat_agent.delta.failure import DeltaFailed, Reason
from mailboat_agent.serving.spawn import SpawnedProcess, environment
from mailboat_schemas.errors import TransferTooLong
from mailboat_schemas.patch_formats import ZSTD_PATCH

READ_BYTES = 256 << 10
# Starting takes a second on a small device, and zstd decodes tens of megabytes in one.
DEADLINE_SECONDS_MIN = 30.0
RATE_MIN_BYTES_PER_SECOND = 1 << 20
POLL_SECONDS = 0.2  # how soon it notices that nobody waits any more
DECODER = (sys.executable, "-P", "-m", "mailboat_agent.delta.decoder")

_REASONS = {
    exit_status.MALFORMED: (Reason.PATCH_MALFORMED, "it is not one whole patch of its format"),
    exit_status.WINDOW: (Reason.WINDOW_TOO_LARGE, "it asks for a window larger than its files"),
    exit_status.LENGTH: (Reason.LENGTH_DIFFERS, "it does not announce the length that was signed"),
    exit_status.MEMORY: (Reason.DECODER_OVER_MEMORY, "it takes more memory than it declares"),
    -SIGXCPU: (Reason.DECODER_TOO_SLOW, "it took more processor time than any honest one"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """What to decode, within which bounds. Descriptors stay their owner's."""

    base_fd: int | None  # None for formats without a base
    base_length: int
    patch_fd: int
    target_length: int
    memory_bytes: int
    format: str = ZSTD_PATCH
    program: tuple[str, ...] = DECODER
    deadline_seconds_min: float = DEADLINE_SECONDS_MIN

    @property
    def deadline_seconds(self) -> float:
        size_bytes = self.base_length + self.target_length
        return self.deadline_seconds_min + size_bytes / RATE_MIN_BYTES_PER_SECOND


def decode_into(output: Path, decoding: Decoding, abandoned: threading.Event) -> Hashed:
    """Write the outcome to ``output``, durable, never one byte over the signed length.

    ``abandoned`` ends it early. The caller compares the hash, and removes the file if this raises.

    Raises:
        DeltaFailed: it did not come to exactly as many bytes as were signed.
        DiskFull, DiskFailing
    """
    with disk_errors("opening a file for a patch's outcome"):
        output.unlink(missing_ok=True)  # a fresh inode: whoever was abandoned writes elsewhere
        part = PartFile(output, decoding.target_length)
    try:
        process, pipe = _start(decoding)
        try:
            with disk_errors("writing a patch's outcome"):
                _receive(process, pipe, part, decoding, abandoned)
        finally:
            os.close(pipe)
            process.kill()
        with disk_errors("writing a patch's outcome"):
            return part.sync()
    finally:
        part.close()


def _start(decoding: Decoding) -> tuple[SpawnedProcess, int]:
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    try:
        process = subprocess.Popen(
            [
                *decoding.program,
                f"--format={decoding.format}",
                f"--base-fd={-1 if decoding.base_fd is None else decoding.base_fd}",
                f"--base-length={decoding.base_length}",
                f"--patch-fd={decoding.patch_fd}",
                f"--target-length={decoding.target_length}",
                f"--memory-bytes={decoding.memory_bytes}",
                f"--cpu-seconds={int(decoding.deadline_seconds) + 1}",
                f"--parent-pid={os.getpid()}",
                f"--parent-uid={os.getuid()}",
            ],
            pass_fds=[fd for fd in (decoding.base_fd, decoding.patch_fd) if fd is not None],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.PIPE,  # read when it is dead
            cwd="/",
            env=environment(),
            start_new_session=True,
        )
    except OSError as error:
        os.close(ours)
        problem = f"no process could be started: {error.strerror}"
        raise DeltaFailed(Reason.DECODER_CRASHED, problem) from error
    finally:
        os.close(theirs)
    return SpawnedProcess(process), ours


def _receive(
    process: SpawnedProcess,
    pipe: int,
    part: PartFile,
    decoding: Decoding,
    abandoned: threading.Event,
) -> None:
    give_up = time.monotonic() + decoding.deadline_seconds
    while chunk := _read(pipe, give_up, abandoned):
        try:
            part.append(chunk)
        except TransferTooLong as error:
            problem = f"it makes more than {decoding.target_length} bytes"
            raise DeltaFailed(Reason.OUTPUT_TOO_LONG, problem) from error
    if not process.wait(max(0.0, give_up - time.monotonic())):
        raise _too_slow()
    status = process.returncode
    if status is not None and status in _REASONS:
        raise DeltaFailed(*_REASONS[status])
    if status != 0:
        raise DeltaFailed(Reason.DECODER_CRASHED, f"the decoder ended by {process.how_it_ended()}")
    if part.size_bytes < decoding.target_length:
        problem = f"it makes {part.size_bytes} of {decoding.target_length} bytes"
        raise DeltaFailed(Reason.OUTPUT_TOO_SHORT, problem)


def _read(pipe: int, give_up: float, abandoned: threading.Event) -> bytes:
    poll = select.poll()  # select() ends at descriptor 1023
    poll.register(pipe, select.POLLIN)
    while not abandoned.is_set():
        left_seconds = give_up - time.monotonic()
        if left_seconds <= 0:
            raise _too_slow()
        if poll.poll(min(left_seconds, POLL_SECONDS) * 1000):
            return os.read(pipe, READ_BYTES)
    raise DeltaFailed(Reason.DECODER_TOO_SLOW, "nobody waits for it any more")


def _too_slow() -> DeltaFailed:
    return DeltaFailed(Reason.DECODER_TOO_SLOW, "it did not end within its deadline")
