"""All that looks at live traffic beside the answers: mirrors, drift statistics, and feedback.

The runtime tells it of each answer after it has gone. It costs the thread that serves microseconds,
but for the few requests that are copied; and no failure of it is a failure of serving.
"""

import logging
import queue
import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from mailboat_agent.serving.drift_statistics import DriftStatistics
from mailboat_agent.serving.feedback import Feedback, Posted
from mailboat_agent.serving.observing import Observed, keep, size_bytes
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.shadow import Mirror
from mailboat_agent.serving.tensors import Tensor
from mailboat_schemas.documents.reference import Reference
from mailboat_schemas.live_figures import SHIFTS_MAX, ShadowSum, Shift

DRIFT_SAMPLES_PER_SECOND_MAX = 5.0  # of one model: about a hundredth of a core
DRIFT_WAITING_MAX = 8  # samples that are copied and not yet counted
DRIFT_SAMPLE_BYTES_MAX = 8 << 20  # a larger request is not looked at
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LiveFigures:
    """Of one release. Sums since it began to answer, or since the last drain."""

    version: str
    posted: Posted
    shifts: tuple[Shift, ...] = ()
    shadow: ShadowSum | None = None


class _Watched:
    """Drift of the release that serves one model: in all, and since the last drain."""

    def __init__(self, digest: str, stay: int, reference: Reference) -> None:
        self.digest = digest
        self.stay = stay
        # The same device draws the same requests again: there is nobody to be unpredictable to.
        self.total = DriftStatistics(reference, random.Random(digest))  # noqa: S311
        self.window = self.total.fresh()
        self.next_sample_at = 0.0


class LiveView:
    """Thread-safe."""

    def __init__(self) -> None:
        self.feedback = Feedback()
        self._lock = threading.Lock()
        self._mirrors: dict[str, Mirror] = {}  # by model
        self._watched: dict[str, _Watched] = {}
        self._samples: queue.Queue[tuple[_Watched, Observed] | None] = queue.Queue(
            DRIFT_WAITING_MAX
        )
        self._counting: threading.Thread | None = None
        self._told_posted: dict[str, dict[str, Posted]] = {}  # at the last drain, as `of_model`
        # Version and counts of candidates whose shadow is over, and not drained since, by digest.
        self._ended: dict[str, dict[str, tuple[str, ShadowSum]]] = {}

    def __call__(
        self,
        release: ServedRelease,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        latency_ms: float,
    ) -> None:
        """One answer, in the thread that serves. The tensors hold during the call alone."""
        now = time.monotonic()
        try:
            self.feedback.serves(release.model, release.version, release.digest, now)
            mirror = self._mirrors.get(release.model)
            if mirror is not None:
                mirror.saw(inputs, outputs, latency_ms, now)
            watched = self._watched.get(release.model)
            if watched is not None and watched.digest == release.digest:
                self._sample(watched, inputs, outputs, latency_ms, now)
        except Exception:  # noqa: BLE001 - serving goes on, whatever this is
            _log.exception("Live traffic of %s could not be looked at", release.model)

    def close(self) -> None:
        with self._lock:
            counting, self._counting = self._counting, None
            self._watched.clear()
        if counting is not None:
            self._samples.put(None)
            counting.join(1.0)

    # --- mirrors ---------------------------------------------------------------------------------

    def begin_mirror(self, mirror: Mirror) -> None:
        """From now on live requests of the candidate's model go to it too."""
        self._mirrors[mirror.release.model] = mirror

    def in_shadow(self, model: str) -> str | None:
        """The version of the candidate that is compared with what serves, if there is one."""
        mirror = self._mirrors.get(model)
        return None if mirror is None else mirror.release.version

    def end_mirror(self, mirror: Mirror) -> None:
        """Mirror to it no more. One that has taken its place goes on."""
        model = mirror.release.model
        with self._lock:
            if self._mirrors.get(model) is mirror:
                del self._mirrors[model]
        mirror.close()
        counts = mirror.drain()
        with self._lock:
            ended = self._ended.setdefault(model, {})
            _, before = ended.get(mirror.release.digest, ("", ShadowSum()))
            ended[mirror.release.digest] = (mirror.release.version, before.plus(counts))

    # --- drift -----------------------------------------------------------------------------------

    def compare_with(
        self, model: str, digest: str, reference: Reference | None, *, stay: int = 0
    ) -> None:
        """This release serves the model from now on; None: it has no reference statistics.

        ``stay`` tells two stays of one release apart: what was sampled in one says nothing of the
        next.
        """
        with self._lock:
            watched = self._watched.get(model)
            if watched is not None and (watched.digest, watched.stay) == (digest, stay):
                return
            if reference is None:
                self._watched.pop(model, None)
                return
            self._watched[model] = _Watched(digest, stay, reference)
            if self._counting is None:
                self._counting = threading.Thread(target=self._count, name="drift", daemon=True)
                self._counting.start()

    def shifts(self, model: str, digest: str) -> tuple[Shift, ...] | None:
        """How far this release's traffic is from its reference since it began to serve; None if it
        has none."""
        with self._lock:
            watched = self._watched.get(model)
            return None if watched is None or watched.digest != digest else watched.total.shifts()

    def _sample(
        self,
        watched: _Watched,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        latency_ms: float,
        now: float,
    ) -> None:
        if now < watched.next_sample_at or self._samples.full():
            return
        if size_bytes(inputs, outputs) > DRIFT_SAMPLE_BYTES_MAX:
            return
        watched.next_sample_at = now + 1 / DRIFT_SAMPLES_PER_SECOND_MAX
        with suppress(queue.Full):  # another model was quicker; a sample not taken is none
            self._samples.put_nowait((watched, keep(inputs, outputs, latency_ms)))

    def _count(self) -> None:
        while (item := self._samples.get()) is not None:
            watched, observed = item
            try:
                with self._lock:
                    watched.total.add(observed.inputs, observed.outputs)
                    watched.window.add(observed.inputs, observed.outputs)
            except Exception:  # noqa: BLE001 - as above
                _log.exception("A sample of live traffic could not be counted")

    # --- telemetry -------------------------------------------------------------------------------

    def drain(self, model: str) -> dict[str, LiveFigures]:
        """What came since the last drain, by digest. One caller: what it gets is gone."""
        found: dict[str, LiveFigures] = {}
        shifts = self._drain_shifts(model)
        told, now = self._told_posted.get(model, {}), self.feedback.of_model(model)
        self._told_posted[model] = now
        for digest, posted in now.items():
            since = posted.since(told.get(digest))
            if not since.nothing or digest in shifts:
                found[digest] = LiveFigures(posted.version, since, shifts.get(digest, ()))
        for digest, (version, counts) in self._drain_shadows(model).items():
            of_release = found.get(digest, LiveFigures(version, Posted(version)))
            if counts != ShadowSum():
                found[digest] = replace(of_release, shadow=counts)
        return found

    def _drain_shadows(self, model: str) -> dict[str, tuple[str, ShadowSum]]:
        with self._lock:
            found, mirror = self._ended.pop(model, {}), self._mirrors.get(model)
        if mirror is not None:
            _, before = found.get(mirror.release.digest, ("", ShadowSum()))
            found[mirror.release.digest] = (mirror.release.version, before.plus(mirror.drain()))
        return found

    def _drain_shifts(self, model: str) -> dict[str, tuple[Shift, ...]]:
        with self._lock:
            watched = self._watched.get(model)
            if watched is None:
                return {}
            window, watched.window = watched.window, watched.window.fresh()
        shifts = window.shifts()[:SHIFTS_MAX]
        return {watched.digest: shifts} if shifts else {}
