"""The parts of an agent that touch no disk of ours, without processes and without a network.

A release's first line says what becomes of it (`world`); a patch is decoded by the same code as in
the decoder's process, into a pipe; files come out of a dictionary, through the real `PartFile`.
"""

import hashlib
import logging
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.faults.world import DEADLY, FLAKY, WRONG, World

from mailboat_agent import work
from mailboat_agent.artifacts.arrivals import Arrivals
from mailboat_agent.artifacts.part_file import Hashed, PartFile, Progress
from mailboat_agent.atomic_file import disk_errors
from mailboat_agent.delta import decoding, zstd_frame
from mailboat_agent.serving import switch
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.trial import GateFailed, TrialReport
from mailboat_agent.serving.window import ServingCounters, ServingStats
from mailboat_schemas.errors import ArtifactMissing, ServerUnavailable

CHUNK_BYTES = 8192


class Source:
    """The network: what a controller has, by digest."""

    def __init__(self, artifacts: World) -> None:
        self._world = artifacts
        self.connected = True
        self._lies_about: set[str] = set()

    def lie_once(self) -> None:
        """Like a broken cache: the first time, every file has a byte that is not its own."""
        self._lies_about = set(self._world.artifacts)

    async def fetch_artifact(
        self,
        digest: str,
        length: int,
        target: Path,
        on_progress: Progress | None = None,
        arrivals: Arrivals | None = None,  # noqa: ARG002 - counts bytes for people
    ) -> Hashed:
        if not self.connected:
            raise ServerUnavailable("No network.", next_step="wait")
        content = self._world.artifacts.get(digest)
        if content is None:
            raise ArtifactMissing(digest, next_step="upload it")
        if digest in self._lies_about:
            self._lies_about.remove(digest)
            content = content[:-1] + bytes([content[-1] ^ 1])
        with disk_errors("opening a staging file"):
            part = PartFile(target, length, on_progress)
        try:
            with disk_errors("writing a download"):
                if part.size_bytes > 0:
                    part.hash_what_is_there()
                while part.size_bytes < length:
                    part.append(content[part.size_bytes : part.size_bytes + CHUNK_BYTES])
                return part.sync()
        finally:
            part.close()


class LightLane:
    """A release that serves, without a worker: it has read the bytes it was handed."""

    ready = True
    worker_pid = 0  # so that everything fits beside it

    def __init__(self, release: ServedRelease, *, serial: int, clock: Any, **_: Any) -> None:
        self.release = release
        self._serial = serial
        self._counters = ServingCounters(clock)
        content = read_all(release.model_fd)
        self.content_digest = hashlib.sha256(content).hexdigest()
        self._flaky = content.startswith(FLAKY)

    def stats(self) -> ServingStats:
        if self._flaky:
            self._counters.restarts = 2
        return self._counters.stats(
            model=self.release.model,
            version=self.release.version,
            digest=self.release.digest,
            serial=self._serial,
            peak_memory_bytes=0,
            ready=True,
        )

    def retire(self) -> None:
        pass

    begin = cut_off = retire

    def join(self, timeout_seconds: float) -> bool:  # noqa: ARG002
        return True


def read_all(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def light_trial(crash: Callable[[], None]) -> Callable[..., TrialReport]:
    """``crash`` is what a deadly release does to the device."""

    def run_trial(*, model_fd: int, **_: Any) -> TrialReport:
        content = read_all(model_fd)
        if content.startswith(DEADLY):
            crash()
        if content.startswith(WRONG):
            raise GateFailed("golden_mismatch", "It answers wrongly.")
        figures = ("cold_start_ms", "latency_p50_ms", "latency_p95_ms", "latency_p99_ms")
        return TrialReport(
            **dict.fromkeys((*figures, "throughput_per_second", "largest_difference"), 0.0),
            **dict.fromkeys(("inferences", "samples", "peak_memory_bytes"), 0),
            provider="CPUExecutionProvider",
            runtime_version="1.20.0",
        )

    return run_trial


class _Ended:
    """A decoder that has come to its end."""

    returncode = 0

    def wait(self, seconds: float) -> bool:  # noqa: ARG002
        return True

    def kill(self) -> None:
        pass


def decode_in_process(asked: decoding.Decoding) -> tuple[Any, int]:
    """The decoder's own work, into a pipe that holds all of it."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    base = None
    if asked.base_fd is not None:
        base = mmap.mmap(asked.base_fd, 0, prot=mmap.PROT_READ)
    with open(os.dup(asked.patch_fd), "rb") as content, open(theirs, "wb", buffering=0) as out:  # noqa: PTH123
        content.seek(0)
        write = out.write
        status = zstd_frame.decode(base, content, write, target_length=asked.target_length)  # type: ignore[arg-type]
    assert status == 0
    return _Ended(), ours


@contextmanager
def light_parts(crash: Callable[[], None]) -> Iterator[None]:
    """No worker and no decoder process, and no log, as long as it lasts."""
    quiet = logging.getLogger("mailboat_agent")
    before = quiet.disabled, logging.root.manager.disable
    with ExitStack() as patched:
        patched.enter_context(patch.object(switch, "Lane", LightLane))
        patched.enter_context(patch.object(work, "run_trial", light_trial(crash)))
        patched.enter_context(patch.object(decoding, "_start", decode_in_process))
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before[1])
