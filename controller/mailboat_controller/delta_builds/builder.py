"""Starts the process that makes a delta, waits for it within bounds, and takes what it made.

Blocking: run it beside the event loop. What it is given is artifacts of the store; what it makes
goes back there, under its digest, before anybody is told of it.
"""

import errno
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailboat_controller.artifacts.artifact_store import ArtifactStore
from mailboat_controller.artifacts.directory import disk_free_bytes
from mailboat_controller.delta_builds.build_process import EXIT_MEMORY
from mailboat_controller.store.deltas import DeltaRow
from mailboat_schemas.deltas import Delta
from mailboat_schemas.errors import DiskFull, OperatorNeeded

PROGRAM = (sys.executable, "-P", "-m", "mailboat_controller.delta_builds.build_process")
# Building takes a second for some megabytes, and a busy machine ten times as long.
DEADLINE_SECONDS_MIN = 120.0
RATE_MIN_BYTES_PER_SECOND = 128 << 10
# Each of four ways takes up to the size of the target, and one of them twice while it is built.
SCRATCH_TARGETS = 5
DISK_MARGIN_BYTES = 64 << 20  # what database and uploads must still find
MEMORY_MIB_DEFAULT = 2048
POLL_SECONDS = 0.1
_STDERR_CHARS = 500


class DeltaBuildFailed(OperatorNeeded):
    """A delta was not built; devices fetch the file whole."""

    code = "E-DELTA-BUILD"

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"The delta was not built: {problem}.",
            next_step="nothing; it is tried again a few times, and devices fetch the file whole. "
            "`mailboat release delta --build` tries it again by hand.",
        )


class BuildStopped(Exception):  # no error: the controller ends, or nobody wants it any more
    """Nothing was built, and nothing is wrong."""


@dataclass(frozen=True, slots=True)
class Built:
    """``delta`` is None where nothing is worth it; its patch is in the artifact store."""

    delta: Delta | None
    rows: tuple[Mapping[str, Any], ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    artifacts: ArtifactStore
    scratch: Path
    memory_mib: int = MEMORY_MIB_DEFAULT
    program: Sequence[str] = PROGRAM
    deadline_seconds_min: float = DEADLINE_SECONDS_MIN
    free_bytes: Callable[[Path], int] = disk_free_bytes

    def clear(self) -> None:
        """Remove what a controller that died left behind; only at start."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def build(
        self,
        row: DeltaRow,
        whole: Sequence[Mapping[str, Any]],
        stop: threading.Event,
    ) -> Built:
        """``whole`` as in `making.make`.

        Raises:
            DeltaBuildFailed, BuildStopped
            ArtifactMissing: the base or the target is not in the store (any more).
            DiskFull: no attempt was made, or it met a full disk.
        """
        began = time.monotonic()
        self._require_room(row)
        with ExitStack() as stack:
            target = stack.enter_context(self.artifacts.local_file(row.key.target))
            base = None
            if row.key.base:
                base = stack.enter_context(self.artifacts.local_file(row.key.base))
            directory = tempfile.TemporaryDirectory(dir=self.scratch, ignore_cleanup_errors=True)
            scratch = Path(stack.enter_context(directory))
            order = {
                "base": None if base is None else str(base),
                "target": str(target),
                "base_length": row.base_length,
                "target_length": row.target_length,
                "decoder_bytes_max": row.key.memory_bytes_max,
                "memory_bytes_max": self.memory_mib << 20,
                "scratch": str(scratch),
                "whole": [dict(each) for each in whole],
            }
            answer = self._run(order, self._deadline_seconds(row), stop)
            return self._take(answer, row, time.monotonic() - began)

    def _require_room(self, row: DeltaRow) -> None:
        self.scratch.mkdir(parents=True, exist_ok=True)
        needed = SCRATCH_TARGETS * row.target_length + DISK_MARGIN_BYTES
        if self.free_bytes(self.scratch) < needed:
            raise _disk_full(needed)

    def _deadline_seconds(self, row: DeltaRow) -> float:
        size_bytes = row.base_length + row.target_length
        return self.deadline_seconds_min + size_bytes / RATE_MIN_BYTES_PER_SECOND

    def _run(self, order: dict[str, Any], seconds: float, stop: threading.Event) -> dict[str, Any]:
        with tempfile.TemporaryFile(dir=order["scratch"]) as errors:
            process = subprocess.Popen(
                self.program,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd="/",
                start_new_session=True,  # a Ctrl-C is for the controller, which ends it in order
            )
            try:
                printed = _answer(process, order, seconds, stop)
            finally:
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    with suppress(BrokenPipeError):  # what it did not read
                        if pipe is not None:
                            pipe.close()
            if process.returncode == 0:
                answer: dict[str, Any] = json.loads(printed)
                return answer
            errors.seek(0)
            told = errors.read().decode(errors="replace").strip()[-_STDERR_CHARS:]
        if f"[Errno {errno.ENOSPC}]" in told:
            raise _disk_full(None)
        raise DeltaBuildFailed(_how_it_ended(process.returncode, told, self.memory_mib))

    def _take(self, answer: dict[str, Any], row: DeltaRow, seconds: float) -> Built:
        rows = tuple(answer["rows"])
        if answer["delta"] is None:
            return Built(None, rows, seconds)
        delta = Delta.model_validate(answer["delta"])
        if (delta.target, delta.base or "") != (row.key.target, row.key.base):
            raise DeltaBuildFailed(
                f"the store's files are not what they are called: {delta.target[:16]} "
                f"from {(delta.base or 'nothing')[:16]}"
            )
        digest = self.artifacts.put_file(Path(answer["patch"]))
        if digest != delta.patch:
            raise DeltaBuildFailed("the patch changed after it was checked")
        return Built(delta, rows, seconds)


def _answer(
    process: "subprocess.Popen[bytes]", order: dict[str, Any], seconds: float, stop: threading.Event
) -> bytes:
    """What it prints; stdin stays open, because it ends with that."""
    deadline = time.monotonic() + seconds
    printed: list[bytes] = []
    if process.stdin is None or process.stdout is None:
        raise DeltaBuildFailed("it has no pipes")
    reader = threading.Thread(target=lambda out: printed.append(out.read()), args=(process.stdout,))
    reader.start()
    try:
        with suppress(BrokenPipeError):  # it is dead already; its status says of what
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
        while reader.is_alive() or process.poll() is None:
            if stop.is_set():
                raise BuildStopped
            if time.monotonic() > deadline:
                raise DeltaBuildFailed(f"it took longer than {seconds:.0f} s")
            reader.join(POLL_SECONDS)
            if not reader.is_alive():
                _reaped(process)
    finally:
        process.kill()
        reader.join()
    return b"".join(printed)


def _reaped(process: "subprocess.Popen[bytes]") -> None:
    """It closed its end, so it is about to end."""
    try:
        process.wait(POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return


def _how_it_ended(status: int | None, told: str, memory_mib: int) -> str:
    if status == EXIT_MEMORY or "MemoryError" in told or "cannot allocate" in told.lower():
        return f"it takes more memory than delta_build_memory_mib = {memory_mib}"
    if status is not None and status < 0:
        return f"its process was killed by signal {-status}, perhaps for lack of memory"
    return f"its process ended with status {status}: {told.splitlines()[-1] if told else 'nothing'}"


def _disk_full(needed_bytes: int | None) -> DiskFull:
    needed = "" if needed_bytes is None else f", it takes {needed_bytes >> 20} MiB"
    return DiskFull(
        f"There is no room to build a delta{needed}.",
        next_step="free space in the controller's data directory; it is tried again by itself.",
    )
