"""A release's worker while it is in memory: loaded within the budget, kept, given up."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from mailboat_agent.serving.launch import Launch
from mailboat_agent.serving.loading import LoadedWorker, load_worker
from mailboat_agent.serving.process import Description, Worker
from mailboat_agent.serving.residency import Claim, Residency
from mailboat_agent.serving.served_release import ServedRelease

UNLOAD_SECONDS_MAX = 2.0  # for requests that wait, when another model needs the memory


@dataclass(frozen=True, slots=True)
class Spare:
    """A worker that holds a release and serves nobody, and the memory it takes."""

    loaded: LoadedWorker
    claim: Claim


Keeper = Callable[[ServedRelease, Spare], bool]


class Standing:
    """Changed by one thread at a time, that of the lane; the others only look."""

    def __init__(
        self,
        release: ServedRelease,
        *,
        launch: Launch,
        residency: Residency,
        pinned: bool,
        wake: Callable[[], None],
        spare: Spare | None,
    ) -> None:
        """``wake`` has the lane's thread look at `should_unload`."""
        self.model_fd = os.dup(release.model_fd)
        self._release = release
        self._launch = launch
        self._residency = residency
        self._pinned = pinned
        self._wake = wake
        self._peak_memory_bytes = 0
        self._unload_asked_at: float | None = None
        self.description: Description = release.declared()
        self._loaded: LoadedWorker | None = None
        self._claim: Claim | None = None
        if spare is not None:
            self._loaded, self._claim = spare.loaded, spare.claim
            self.description = spare.loaded.description
            residency.change_hands(self._claim, self._ask_to_unload, pinned=pinned, spare=False)

    @property
    def is_loaded(self) -> bool:
        return self._loaded is not None

    @property
    def worker(self) -> Worker:
        """Only while `is_loaded`."""
        if self._loaded is None:
            raise RuntimeError("nothing is loaded")
        return self._loaded.worker

    @property
    def worker_pid(self) -> int:
        """0 while there is none."""
        loaded = self._loaded
        return 0 if loaded is None else loaded.worker.pid

    @property
    def is_dead(self) -> bool:
        return self._loaded is not None and not self._loaded.worker.alive

    def load(self) -> None:
        """Have a worker, a fresh one if there is one that died.

        Raises:
            NoRoom, WorkerNotStarted, WorkerDied, WorkerHung, InferenceFailed, RuntimeUnsupported
        """
        self.peak_memory_bytes()
        if self._claim is None:
            self._claim = self._residency.claim(
                f"{self._release.model} {self._release.version}",
                self._release.memory_bytes,
                self._ask_to_unload,
                pinned=self._pinned,
            )
        try:
            self._loaded = load_worker(self._release, self.model_fd, self._launch)
        except BaseException:
            if self._loaded is None:
                self._give_memory_back()
            raise
        self.description = self._loaded.description

    def unload(self) -> None:
        """End the worker, if there is one; the next `load` makes another."""
        self.peak_memory_bytes()
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.worker.close()
        self._give_memory_back()

    def close(self, keep: Keeper | None) -> None:
        """The end: the worker is kept by whoever takes it, or ended."""
        self.peak_memory_bytes()
        if keep is not None and self._is_taken_by(keep):
            self._loaded = self._claim = None
        self.unload()
        os.close(self.model_fd)

    def _is_taken_by(self, keep: Keeper) -> bool:
        loaded, claim = self._loaded, self._claim
        if loaded is None or claim is None or not loaded.worker.alive:
            return False
        return keep(self._release, Spare(loaded, claim))

    def should_unload(self, *, idle: bool) -> bool:
        """Whether another model needs the memory; what waits for this one goes first, for a bit."""
        asked_at = self._unload_asked_at
        if asked_at is None or self._loaded is None:
            return False
        return idle or time.monotonic() - asked_at > UNLOAD_SECONDS_MAX

    def note_use(self) -> None:
        if self._claim is not None:
            self._claim.used_at = time.monotonic()

    def peak_memory_bytes(self) -> int:
        """Largest so far, of all its workers."""
        if (loaded := self._loaded) is not None:
            now_bytes = loaded.worker.peak_memory_bytes()
            self._peak_memory_bytes = max(self._peak_memory_bytes, now_bytes)
        return self._peak_memory_bytes

    def _ask_to_unload(self) -> None:
        self._unload_asked_at = time.monotonic()
        self._wake()

    def _give_memory_back(self) -> None:
        self._unload_asked_at = None
        if self._claim is not None:
            self._residency.release(self._claim)
            self._claim = None
