"""The worker of a release that was switched away from, kept for a while: the way back is a moment.

One a model, the last. It answers nobody and its memory counts; whoever needs that has it ended.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from mailboat_agent.serving.residency import Residency
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.standing import Spare


@dataclass(slots=True)
class _Kept:
    digest: str
    spare: Spare
    timer: threading.Timer


class SpareWorkers:
    def __init__(self, residency: Residency, seconds: float) -> None:
        """``seconds`` that one is kept; 0 for never."""
        self._residency = residency
        self._seconds = seconds
        self._expected: dict[str, str] = {}  # digest of the release that may leave its worker here
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.Lock()

    def expect(self, release: ServedRelease) -> None:
        """It was switched away from; its lane hands the worker over once it has finished."""
        self.drop(release.model)
        if self._seconds > 0:
            with self._lock:
                self._expected[release.model] = release.digest

    def expects(self, release: ServedRelease) -> bool:
        """Whether its worker is here, or will come."""
        with self._lock:
            kept = self._kept.get(release.model)
            expected = self._expected.get(release.model)
            return release.digest in (expected, None if kept is None else kept.digest)

    def keep(self, release: ServedRelease, spare: Spare) -> bool:
        """Whether it was taken; otherwise the caller ends it."""
        model = release.model
        with self._lock:
            # A candidate of the same model comes by too, and takes nobody's place.
            if self._expected.get(model) != release.digest:
                return False
            del self._expected[model]
            timer = threading.Timer(self._seconds, self._drop_this, [model, spare])
            timer.name, timer.daemon = f"spare-{model}", True
            self._kept[model] = _Kept(release.digest, spare, timer)
            timer.start()
            end = _beside(lambda: self._drop_this(model, spare))
            self._residency.change_hands(spare.claim, end, spare=True)
        return True

    def take(self, release: ServedRelease) -> Spare | None:
        """The worker that holds this very release, if it is here and lives; it is the caller's."""
        with self._lock:
            kept = self._kept.get(release.model)
            if kept is None or kept.digest != release.digest:
                return None
            del self._kept[release.model]
        kept.timer.cancel()
        if kept.spare.loaded.worker.alive and not kept.spare.claim.asked:
            return kept.spare
        self.end(kept.spare)
        return None

    def drop(self, model: str) -> None:
        """End what is kept of this model, and expect nothing."""
        with self._lock:
            self._expected.pop(model, None)
            kept = self._kept.pop(model, None)
        if kept is not None:
            kept.timer.cancel()
            self.end(kept.spare)

    def _drop_this(self, model: str, spare: Spare) -> None:
        """Unless somebody has taken it meanwhile; another one may be here by now."""
        with self._lock:
            kept = self._kept.get(model)
            if kept is None or kept.spare is not spare:
                return
            del self._kept[model]
        kept.timer.cancel()
        self.end(spare)

    def drop_if(self, model: str, digests: frozenset[str]) -> None:
        """As `drop`, beside the caller, if it is of one of these releases."""
        with self._lock:
            kept, expected = self._kept.get(model), self._expected.get(model)
            held = expected if kept is None else kept.digest
        if held in digests:
            _beside(lambda: self.drop(model))()

    def close(self) -> None:
        with self._lock:
            models = {*self._kept, *self._expected}
        for model in models:
            self.drop(model)

    def end(self, spare: Spare) -> None:
        """Of one that was taken, too; may be repeated."""
        spare.loaded.worker.close()
        self._residency.release(spare.claim)


def _beside(end: Callable[[], None]) -> Callable[[], None]:
    """For callers that must not wait until a process is gone."""
    return lambda: threading.Thread(target=end, name="spare-end", daemon=True).start()
