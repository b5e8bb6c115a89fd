"""The lanes of a device: which serves for each model, which have been switched away from."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from mailboat_agent.serving.lane import Lane
from mailboat_agent.serving.not_served import ReleaseWithdrawn
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.worker_errors import WorkerNotStarted

RETIRED_LANES_MAX = 64  # whose last window nobody has drained yet; the oldest is given up


class Lanes:
    """Thread-safe, and held for moments only."""

    def __init__(self) -> None:
        self._serving: dict[str, Lane] = {}
        self._barred: dict[str, frozenset[str]] = {}  # digests that must not serve, by model
        self._retired: deque[Lane] = deque(maxlen=RETIRED_LANES_MAX)
        self._closed = False
        self._lock = threading.Lock()

    def get(self, model: str) -> Lane | None:
        with self._lock:
            return self._serving.get(model)

    @contextmanager
    def held(self, model: str) -> Iterator[Lane | None]:
        """The lane that serves; none is retired or put in its place meanwhile."""
        with self._lock:
            yield self._serving.get(model)

    def all(self) -> dict[str, Lane]:
        with self._lock:
            return dict(sorted(self._serving.items()))

    def put(self, lane: Lane) -> None:
        """It serves from now on; what served before is the caller's to retire.

        Raises:
            ReleaseWithdrawn: it is barred.
            WorkerNotStarted: all is closed.
        """
        with self._lock:
            self._refuse(lane.release)
            self._serving[lane.release.model] = lane

    def refuse_barred(self, release: ServedRelease) -> None:
        """
        Raises:
            ReleaseWithdrawn
        """
        with self._lock:
            self._refuse_barred(release)

    def is_barred(self, model: str, digest: str) -> bool:
        with self._lock:
            return digest in self._barred.get(model, ())

    def take_out(self, model: str) -> Lane | None:
        with self._lock:
            return self._serving.pop(model, None)

    def retire(self, lane: Lane) -> None:
        with self._lock:
            self._retired.append(lane)
        lane.retire()

    def replace_with(self, lane: Lane, old: Lane) -> None:
        """What waits in the old one, which never began, waits in this one.

        Raises:
            ReleaseWithdrawn, WorkerNotStarted: nothing serves; who waits is still in the old one.
        """
        model = lane.release.model
        with self._lock:
            if self._serving.get(model) is old:
                del self._serving[model]
            self._refuse(lane.release)
            lane.take_over(old.hand_over())
            self._serving[model] = lane

    def bar(self, model: str, digests: frozenset[str]) -> None:
        """These must not serve, and are cut off where they do."""
        with self._lock:
            self._barred[model] = digests
            lane = self._serving.get(model)
            if lane is not None and lane.release.digest in digests:
                del self._serving[model]
                self._retired.append(lane)
            retired = [each for each in self._retired if each.release.model == model]
        for each in retired:
            if each.release.digest in digests:
                each.cut_off()

    def close(self) -> None:
        """Retire all; none serves from now on."""
        with self._lock:
            self._closed = True
            serving = list(self._serving.values())
            self._serving.clear()
            self._retired.extend(serving)
        for lane in serving:
            lane.retire()

    def retired(self) -> tuple[Lane, ...]:
        with self._lock:
            return tuple(self._retired)

    def of_model(self, model: str) -> list[Lane]:
        """All of one model, oldest first. One that has finished is here for the last time."""
        with self._lock:
            found = [lane for lane in self._retired if lane.release.model == model]
            for lane in found:
                if lane.join(0):
                    self._retired.remove(lane)
            serving = self._serving.get(model)
        return found if serving is None else [*found, serving]

    def _refuse(self, release: ServedRelease) -> None:
        self._refuse_barred(release)
        if self._closed:
            raise WorkerNotStarted(
                f"{release.model} {release.version} does not begin to serve: the agent stops.",
                next_step="start the agent again.",
            )

    def _refuse_barred(self, release: ServedRelease) -> None:
        if release.digest in self._barred.get(release.model, ()):
            raise ReleaseWithdrawn(release)
