"""Which release serves for each model, and the switch from one to the next."""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta

from mailboat_agent.sealed_memory import is_sealed
from mailboat_agent.serving.lane import INFERENCE_SECONDS_MAX, Answer, Lane, ServedRelease
from mailboat_agent.serving.launch import AS_CHILDREN, Launch
from mailboat_agent.serving.process import Description, Inference, RuntimeFacts
from mailboat_agent.serving.runtime_facts import runtime_facts
from mailboat_agent.serving.tensors import Tensor
from mailboat_agent.serving.window import ServingStats, ServingWindow
from mailboat_schemas.errors import NotFound, ReleaseRejected, Transient

RETIRED_LANES_MAX = 64  # whose last window nobody has drained yet; the oldest is given up
CLOSE_SECONDS_MAX = 10  # for everything to finish when the agent stops


class ModelNotServed(NotFound):
    """No release of this model, or another version of it, serves on this device."""

    code = "E-MODEL-NOT-SERVED"

    def __init__(self, model: str, version: str | None) -> None:
        named = f"{model!r}" if version is None else f"{model!r} version {version!r}"
        super().__init__(
            f"The model {named} is not served here.",
            next_step="ask GET /v2/models/<model> for the version that is.",
        )


class ModelSuspended(Transient):
    """The device has this model to serve, and nothing to serve it with at the moment."""

    code = "E-MODEL-SUSPENDED"

    def __init__(self, model: str, absence: "Absence") -> None:
        super().__init__(
            f"The model {model!r} is not served now: {absence.because}.",
            next_step="send the request again after the given time.",
            retry_after=timedelta(seconds=absence.retry_seconds),
        )


class ReleaseWithdrawn(ReleaseRejected):
    """It was barred before it could serve, or while it was being loaded."""

    code = "E-WITHDRAWN"

    def __init__(self, release: ServedRelease) -> None:
        super().__init__(
            f"{release.model} {release.version} is not approved any more.",
            next_step="approve it again, or approve another release, if it shall run.",
        )


@dataclass(frozen=True, slots=True)
class Absence:
    """Why a model that belongs here is not served, and when to ask again."""

    because: str
    retry_seconds: int


class Runtime:
    """Thread-safe: the gateway's thread asks while the agent's main thread switches."""

    def __init__(
        self,
        *,
        clock: Callable[[], datetime],
        launch: Launch = AS_CHILDREN,
        inference_seconds_max: float = INFERENCE_SECONDS_MAX,
    ) -> None:
        """``clock`` gives aware UTC; it is read once for each answer, to say when the last was."""
        self._clock = clock
        self.launch = launch
        self._inference_seconds_max = inference_seconds_max
        self._lanes: dict[str, Lane] = {}
        self._barred: dict[str, frozenset[str]] = {}  # digests that must not serve, by model
        self._absences: dict[str, Absence] = {}
        self._retired: deque[Lane] = deque(maxlen=RETIRED_LANES_MAX)
        self._lock = threading.Lock()  # of those above; held for moments only
        self._changing = threading.Lock()  # one switch at a time; held while a worker loads
        self._serial = 0

    def serve(self, release: ServedRelease) -> None:
        """Serve this release from now on. Blocks until its worker is loaded and warm.

        The old release answers until then and finishes what it has accepted; no request fails
        because of the switch. Serving what is served already does nothing. When it raises, the old
        release goes on serving.

        Raises:
            WorkerNotStarted, WorkerDied, WorkerHung: Transient.
            InferenceFailed, RuntimeUnsupported: the release cannot be served here.
            ReleaseWithdrawn: it is barred.
        """
        with self._changing:
            with self._lock:
                current = self._lanes.get(release.model)
                self._refuse_barred(release)
            if current is not None and current.release.digest == release.digest:
                return
            self._serial += 1
            lane = Lane(
                release,
                serial=self._serial,
                clock=self._clock,
                launch=self.launch,
                inference_seconds_max=self._inference_seconds_max,
            )
            try:
                with self._lock:
                    self._refuse_barred(release)  # it took a while, and much may have happened
                    current = self._lanes.get(release.model)
                    self._lanes[release.model] = lane
            except ReleaseWithdrawn:
                lane.retire()
                raise
            if current is not None:
                self._retire(current)

    def stop(self, model: str) -> None:
        """Serve no release of this model any more; what was accepted is still answered."""
        with self._changing:
            with self._lock:
                lane = self._lanes.pop(model, None)
            if lane is not None:
                self._retire(lane)

    def bar(self, model: str, digests: frozenset[str]) -> None:
        """These releases of a model, and no others, must not serve from this moment on.

        One that does serve is cut off, and so is one that was switched away from and still answers
        what it had accepted: its callers are refused, those that wait already too. Never blocks,
        not even while a release is being loaded.
        """
        with self._lock:
            self._barred[model] = digests
            lane = self._lanes.get(model)
            if lane is not None and lane.release.digest in digests:
                del self._lanes[model]
                self._retired.append(lane)
            retired = [each for each in self._retired if each.release.model == model]
        for each in retired:
            if each.release.digest in digests:
                each.cut_off()

    def explain_absence(self, model: str, absence: Absence | None) -> None:
        """What callers are told while no release of this model serves; None: it is not here."""
        with self._lock:
            if absence is None:
                self._absences.pop(model, None)
            else:
                self._absences[model] = absence

    def absences(self) -> dict[str, Absence]:
        """Of the models that belong here and are not served."""
        with self._lock:
            return {
                model: absence
                for model, absence in sorted(self._absences.items())
                if model not in self._lanes
            }

    def close(self) -> None:
        """Stop everything and wait for the workers to be gone."""
        for model in self.models():
            self.stop(model)
        with self._lock:
            retired = tuple(self._retired)
        for lane in retired:
            lane.join(CLOSE_SECONDS_MAX)

    def submit(
        self,
        model: str,
        version: str | None,
        inputs: Sequence[Tensor],
        outputs: Sequence[str],
        *,
        deadline: float,
        encode: Callable[[ServedRelease, Inference], Answer],
    ) -> Future[Answer]:
        """Queue one request with the release that serves now; ``deadline`` is monotonic time.

        Raises:
            ModelNotServed, ModelSuspended, BadTensors, Refused
        """
        with self._lock:  # so that no lane is retired between being chosen and being asked
            lane = self._lane(model, version)
            return lane.submit(
                inputs,
                outputs,
                deadline=deadline,
                encode=lambda inference: encode(lane.release, inference),
            )

    def models(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(sorted(self._lanes))

    def serving(self, model: str, version: str | None = None) -> tuple[ServedRelease, Description]:
        """The release that serves now, and what onnxruntime says of it.

        Raises:
            ModelNotServed, ModelSuspended
        """
        with self._lock:
            lane = self._lane(model, version)
            return lane.release, lane.description

    def ready(self, model: str, version: str | None = None) -> bool:
        """Whether the model's worker stands; False while it is being started again.

        Raises:
            ModelNotServed, ModelSuspended
        """
        with self._lock:
            return self._lane(model, version).ready

    def worker_pid(self, model: str) -> int:
        """Of the worker that serves now.

        Raises:
            ModelNotServed
        """
        with self._lock:
            return self._lane(model, None).worker_pid

    def facts(self) -> RuntimeFacts:
        """What this device's onnxruntime is, and how a worker of it is confined.

        Raises:
            WorkerNotStarted
        """
        return runtime_facts(self.launch)

    def stuck(self, now: float) -> tuple[str, ...]:
        """Models whose thread does not move; ``now`` is monotonic. Dead workers are not meant."""
        with self._lock:
            return tuple(model for model, lane in self._lanes.items() if lane.stuck(now))

    # --- what the soak and the telemetry look at -------------------------------------------------

    def snapshot(self, model: str) -> ServingStats | None:
        """Counters since the present release began to serve; None if none does."""
        with self._lock:
            lane = self._lanes.get(model)
        return None if lane is None else lane.stats()

    def in_memory(self, model: str) -> str:
        """Digest of the release that serves from verified bytes in memory; "" if none does."""
        with self._lock:
            lane = self._lanes.get(model)
            if lane is None or not (lane.ready or is_sealed(lane.model_fd)):
                return ""
            return lane.release.digest

    def verified_copy(self, model: str, sha256: str) -> int | None:
        """A descriptor of the sealed memory with a model file of this sha256, if that serves.

        The caller closes it. None also for a file that was too large for memory, and for one that
        is encrypted on the disk: its plaintext does not go there.
        """
        with self._lock:  # a lane that is retired may close its own
            lane = self._lanes.get(model)
            if lane is None or lane.release.variant.model_file.sealed is not None:
                return None
            is_it = lane.release.variant.model_file.sha256 == sha256
            return os.dup(lane.model_fd) if is_it and is_sealed(lane.model_fd) else None

    def drain_window(self, model: str) -> tuple[ServingWindow, ...]:
        """Everything of one model since the last drain, oldest release first.

        A release that was switched away from appears until it has finished, then never again. Only
        one caller may drain a model: what it gets is gone.
        """
        with self._lock:
            retired = [lane for lane in self._retired if lane.release.model == model]
            finished = [lane for lane in retired if lane.join(0)]
            for lane in finished:
                self._retired.remove(lane)
            serving = self._lanes.get(model)
        lanes = retired if serving is None else [*retired, serving]
        return tuple(lane.drain_window() for lane in lanes)

    def _retire(self, lane: Lane) -> None:
        with self._lock:
            self._retired.append(lane)
        lane.retire()

    def _refuse_barred(self, release: ServedRelease) -> None:
        if release.digest in self._barred.get(release.model, ()):
            raise ReleaseWithdrawn(release)

    def _lane(self, model: str, version: str | None) -> Lane:
        lane = self._lanes.get(model)
        if lane is None and model in self._absences:
            raise ModelSuspended(model, self._absences[model])
        if lane is None or version not in (None, lane.release.version):
            raise ModelNotServed(model, version)
        return lane
