"""Which release serves for each model, and the switch from one to the next."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime

from mailboat_agent.sealed_memory import is_sealed
from mailboat_agent.serving.lane import INFERENCE_SECONDS_MAX, Answer, Lane
from mailboat_agent.serving.lanes import Lanes
from mailboat_agent.serving.launch import AS_CHILDREN, Launch
from mailboat_agent.serving.live_view import LiveView
from mailboat_agent.serving.not_served import (
    Absence,
    ModelNotServed,
    ModelSuspended,
    ReleaseWithdrawn,
)
from mailboat_agent.serving.process import Description, Inference, RuntimeFacts
from mailboat_agent.serving.residency import Residency
from mailboat_agent.serving.runtime_facts import runtime_facts
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.switch import Switch
from mailboat_agent.serving.tensors import Tensor
from mailboat_agent.serving.window import ServingStats, ServingWindow
from mailboat_schemas.documents.serving_policy import Workload

CLOSE_SECONDS_MAX = 10  # for everything to finish when the agent stops
__all__ = ["Absence", "ModelNotServed", "ModelSuspended", "ReleaseWithdrawn", "Runtime"]


class Runtime:
    """Thread-safe: the gateway's thread asks while the agent's main thread switches."""

    def __init__(
        self,
        *,
        clock: Callable[[], datetime],
        launch: Launch = AS_CHILDREN,
        inference_seconds_max: float = INFERENCE_SECONDS_MAX,
        residency: Residency | None = None,
        pinned: frozenset[str] = frozenset(),
        spare_seconds: float = 0,
    ) -> None:
        """
        Args:
            clock: aware UTC; read once for each answer, to say when the last was.
            residency: the memory of all workers; without a bound if None.
            pinned: models that give way to no other.
            spare_seconds: that the worker of a release that was switched away from is kept.
        """
        self.launch = launch
        self.live = LiveView()  # told of each answer by the lanes
        self._lanes = Lanes()
        self._switch = Switch(
            self._lanes,
            clock=clock,
            launch=launch,
            inference_seconds_max=inference_seconds_max,
            residency=residency or Residency(),
            pinned=pinned,
            spare_seconds=spare_seconds,
            observe=self.live,
        )
        self._absences: dict[str, Absence] = {}
        self._fallbacks: dict[str, tuple[str, str]] = {}  # digest and why, by model
        self._stale: dict[str, tuple[str, str]] = {}  # likewise
        self._lock = threading.Lock()  # of the absences

    def serve(self, release: ServedRelease) -> None:
        """Serve this release from now on. Blocks until its worker is loaded and warm.

        Where memory allows both, the old release answers until then. Where it does not, callers
        wait: the old one finishes, goes, and the new one is loaded in its place. Either way what
        was accepted is answered, and no request fails because of the switch. A release that is
        loaded lazily is loaded by its first request. Serving what is served already does nothing.
        When it raises, the old release goes on serving.

        Raises:
            WorkerNotStarted, WorkerDied, WorkerHung, NoRoom: Transient.
            InferenceFailed, RuntimeUnsupported: the release cannot be served here.
            ReleaseWithdrawn: it is barred.
        """
        self._switch.serve(release)

    def candidate(self, release: ServedRelease) -> Lane:
        """A release loaded beside what serves, which answers the caller alone; who retires it.

        Raises:
            NoRoom: it does not fit beside.
            ReleaseWithdrawn, and as `serve`
        """
        return self._switch.candidate(release)

    def free_room(
        self, what: str, size_bytes: int, give_way: Callable[[], None]
    ) -> AbstractContextManager[None]:
        """Memory that nobody has, for a worker that serves nobody. Whoever needs it calls
        ``give_way``, which must return at once.

        Raises:
            NoRoom: on entering; nobody goes for it.
        """
        return self._switch.free_room(what, size_bytes, give_way)

    def stop(self, model: str) -> None:
        """Serve no release of this model any more; what was accepted is still answered."""
        self._switch.stop(model)

    def bar(self, model: str, digests: frozenset[str]) -> None:
        """These releases of a model, and no others, must not serve from this moment on.

        One that does serve is cut off, and so is one that was switched away from and still answers
        what it had accepted: its callers are refused, those that wait already too. Never blocks,
        not even while a release is being loaded.
        """
        self._switch.bar(model, digests)

    def explain_absence(self, model: str, absence: Absence | None) -> None:
        """What callers are told while no release of this model serves; None: it is not here."""
        with self._lock:
            if absence is None:
                self._absences.pop(model, None)
            else:
                self._absences[model] = absence

    def note_fallback(self, model: str, digest: str, word: str) -> None:
        """This release is the declared fallback, and serves as one for the reason ``word``; an
        empty digest: what serves is no fallback."""
        self._fallbacks[model] = (digest, word)

    def fallback_word(self, model: str, digest: str) -> str | None:
        """Why this release serves as a fallback; None if it does not."""
        fallback, word = self._fallbacks.get(model, ("", ""))
        return word if fallback and fallback == digest else None

    def note_stale(self, model: str, digest: str, because: str) -> None:
        """This release is further behind than policy allows, which its answers say; an empty
        digest: none is."""
        self._stale[model] = (digest, because)

    def stale_because(self, model: str, digest: str) -> str | None:
        """Why the answers of this release are marked; None if they are not."""
        stale, because = self._stale.get(model, ("", ""))
        return because if stale and stale == digest else None

    def is_barred(self, model: str, digest: str) -> bool:
        """Whether this release is known not to be approved (any more)."""
        return self._lanes.is_barred(model, digest)

    def absences(self) -> dict[str, Absence]:
        """Of the models that belong here and are not served."""
        serving = self._lanes.all()
        with self._lock:
            return {m: each for m, each in sorted(self._absences.items()) if m not in serving}

    def close(self) -> None:
        """Stop everything and wait for the workers that serve to be gone."""
        self._switch.close()
        for lane in self._lanes.retired():
            lane.join(CLOSE_SECONDS_MAX)
        self.live.close()

    def submit(
        self,
        model: str,
        version: str | None,
        inputs: Sequence[Tensor],
        outputs: Sequence[str],
        *,
        deadline: float,
        workload: Workload | None = None,
        encode: Callable[[ServedRelease, Inference], Answer],
    ) -> Future[Answer]:
        """Queue one request with the release that serves now; ``deadline`` is monotonic time.

        Raises:
            ModelNotServed, ModelSuspended, BadTensors, Refused
        """
        # Held, so that no lane is retired between being chosen and being asked.
        with self._lanes.held(model) as held:
            lane = self._of_version(held, model, version)
            return lane.submit(
                inputs,
                outputs,
                deadline=deadline,
                workload=workload,
                encode=encode,
            )

    def models(self) -> tuple[str, ...]:
        return tuple(self._lanes.all())

    def serving(self, model: str, version: str | None = None) -> tuple[ServedRelease, Description]:
        """The release that serves now, and what onnxruntime says of it.

        Raises:
            ModelNotServed, ModelSuspended
        """
        lane = self._lane(model, version)
        return lane.release, lane.description

    def ready(self, model: str, version: str | None = None) -> bool:
        """Whether the model's worker stands; False while it is being started again.

        Raises:
            ModelNotServed, ModelSuspended
        """
        return self._lane(model, version).ready

    def worker_pid(self, model: str) -> int:
        """Of the worker that serves now.

        Raises:
            ModelNotServed
        """
        return self._lane(model, None).worker_pid

    def facts(self) -> RuntimeFacts:
        """What this device's onnxruntime is, and how a worker of it is confined.

        Raises:
            WorkerNotStarted
        """
        return runtime_facts(self.launch)

    def stuck(self, now: float) -> tuple[str, ...]:
        """Models whose thread does not move; ``now`` is monotonic. Dead workers are not meant."""
        return tuple(model for model, lane in self._lanes.all().items() if lane.stuck(now))

    # --- what the soak and the telemetry look at -------------------------------------------------

    def snapshot(self, model: str) -> ServingStats | None:
        """Counters since the present release began to serve; None if none does."""
        lane = self._lanes.get(model)
        return None if lane is None else lane.stats()

    def in_memory(self, model: str) -> str:
        """Digest of the release that serves from verified bytes in memory; "" if none does."""
        with self._lanes.held(model) as lane:
            if lane is None or not (lane.ready or is_sealed(lane.model_fd)):
                return ""
            return lane.release.digest

    def verified_copy(self, model: str, sha256: str) -> int | None:
        """A descriptor of the sealed memory with a model file of this sha256, if that serves.

        The caller closes it. None also for a file that was too large for memory, and for one that
        is encrypted on the disk: its plaintext does not go there.
        """
        with self._lanes.held(model) as lane:  # one that is retired may close its own
            if lane is None or lane.release.variant.model_file.sealed is not None:
                return None
            is_it = lane.release.variant.model_file.sha256 == sha256
            return os.dup(lane.model_fd) if is_it and is_sealed(lane.model_fd) else None

    def copy_of_serving(self, model: str) -> ServedRelease | None:
        """The release that serves now, with a descriptor that the caller closes."""
        with self._lanes.held(model) as lane:
            return None if lane is None else replace(lane.release, model_fd=os.dup(lane.model_fd))

    def drain_window(self, model: str) -> tuple[ServingWindow, ...]:
        """Everything of one model since the last drain, oldest release first.

        A release that was switched away from appears until it has finished, then never again. Only
        one caller may drain a model: what it gets is gone.
        """
        return tuple(lane.drain_window() for lane in self._lanes.of_model(model))

    def _lane(self, model: str, version: str | None) -> Lane:
        return self._of_version(self._lanes.get(model), model, version)

    def _of_version(self, lane: Lane | None, model: str, version: str | None) -> Lane:
        if lane is None:
            with self._lock:
                absence = self._absences.get(model)
            if absence is not None:
                raise ModelSuspended(model, absence)
        if lane is None or version not in (None, lane.release.version):
            raise ModelNotServed(model, version)
        return lane
