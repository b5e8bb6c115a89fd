"""A candidate beside what serves: live requests are copied to it, and its answers go to nobody.

The thread that serves only draws a lot, copies and leaves; a bounded queue lies between it and the
thread that asks the candidate and compares. What does not fit into it is dropped and counted.
"""

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from mailboat_agent.serving.admission import Refused
from mailboat_agent.serving.agreement import difference
from mailboat_agent.serving.lane import INFERENCE_SECONDS_MAX, Lane
from mailboat_agent.serving.live_guard import LiveGuard
from mailboat_agent.serving.observing import Observed, keep, size_bytes
from mailboat_agent.serving.process import Inference
from mailboat_agent.serving.residency import NoRoom
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.tensors import Tensor
from mailboat_agent.serving.window import LatencyWindow
from mailboat_agent.update.shadow import DIFFERENCES_MAX, ShadowStats
from mailboat_schemas.documents.live_gates import Shadow
from mailboat_schemas.errors import MailboatError
from mailboat_schemas.live_figures import ShadowSum

MIRRORED_REQUESTS_MAX = 16  # that wait for the candidate
MIRRORED_BYTES_MAX = 32 << 20  # of their copies
MEMORY_AVAILABLE_MIN_BYTES = 64 << 20  # of the machine; with less nothing runs beside what serves
DIFFERENCE_CHARS_MAX = 200
LOOK_SECONDS = 0.5
_log = logging.getLogger(__name__)


class Mirror:
    """Between live traffic and a candidate, until `close`. It does not own the candidate's lane."""

    def __init__(
        self,
        lane: Lane,
        shadow: Shadow,
        *,
        live_p95_ms: float | None,
        available_bytes: Callable[[], int | None],
        rng: random.Random,
    ) -> None:
        """
        Args:
            live_p95_ms: of live answers while nothing runs beside them; None: not known yet.
            available_bytes: what the machine can still give; None where it cannot be said.
        """
        self.release = lane.release  # the candidate
        self._lane = lane
        self._shadow = shadow
        self._available_bytes = available_bytes
        self._rng = rng  # of the draw, in the thread that serves
        self._places_rng = random.Random(rng.random())  # noqa: S311 - of the comparison
        self._guard = LiveGuard(before_p95_ms=live_p95_ms, ratio_max=shadow.live_latency_ratio_max)
        self._lock = threading.Lock()
        self._queue: queue.Queue[Observed | None] = queue.Queue()
        self._waiting_bytes = 0
        self._counts = ShadowSum()
        self._drained = ShadowSum()
        self._live_latency = LatencyWindow()
        self._candidate_latency = LatencyWindow()
        self._differences: list[str] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"shadow-{lane.release.model}", daemon=True
        )
        self._thread.start()

    # --- the thread that serves ------------------------------------------------------------------

    def saw(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], latency_ms: float, now: float
    ) -> None:
        """One live answer. Returns at once; ``now`` is monotonic."""
        with self._lock:
            self._guard.saw(latency_ms, now)
            if not self._guard.allows(now) or self._rng.random() >= self._shadow.share:
                return
            size = size_bytes(inputs, outputs)
            full = self._queue.qsize() >= MIRRORED_REQUESTS_MAX
            if full or self._waiting_bytes + size > MIRRORED_BYTES_MAX or self._closed.is_set():
                self._count(dropped=1)
                return
            self._waiting_bytes += size
            self._count(mirrored=1)
        self._queue.put(keep(inputs, outputs, latency_ms))

    # --- whoever judges --------------------------------------------------------------------------

    def stats(self) -> ShadowStats:
        lane = self._lane.stats()
        impossible = self._impossible()
        with self._lock:
            return ShadowStats(
                counts=self._counts.model_copy(update={"pauses": self._guard.pauses}),
                candidate_p95_ms=self._candidate_latency.quantile_ms(0.95),
                live_p95_ms=self._live_latency.quantile_ms(0.95),
                worker_deaths=lane.worker_restarts,
                differences=tuple(self._differences),
                impossible=impossible,
            )

    def _impossible(self) -> str:
        if not self._lane.worker_pid:  # asked again, it would take the room of one that serves
            return "another model needed its memory"
        available = self._available_bytes()
        scarce = available is not None and available < MEMORY_AVAILABLE_MIN_BYTES
        return "the machine's memory is short" if scarce else ""

    def drain(self) -> ShadowSum:
        """What came since the last drain."""
        with self._lock:
            counts = self._counts.model_copy(update={"pauses": self._guard.pauses})
            since, self._drained = counts.since(self._drained), counts
        return since

    def close(self) -> None:
        """Mirror nothing more. What waits is forgotten, and its bytes are free."""
        self._closed.set()
        with suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self._queue.put(None)
        self._thread.join(LOOK_SECONDS)  # it may be waiting for the candidate; its lane ends that

    # --- the thread beside -----------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed.is_set():
            observed = self._queue.get()
            if observed is None:
                return
            with self._lock:
                self._waiting_bytes -= observed.size_bytes
                if not (self._guard.allows(time.monotonic()) and self._lane.worker_pid):
                    self._count(dropped=1)  # it was chosen before the pause began
                    continue
            try:
                self._ask_and_compare(observed)
            except Exception:  # noqa: BLE001 - one request's failure is not the shadow's end
                _log.exception("A mirrored request could not be compared")
                with self._lock:
                    self._count(failed=1)

    def _ask_and_compare(self, observed: Observed) -> None:
        outputs = [tensor.name for tensor in observed.outputs]
        deadline = time.monotonic() + INFERENCE_SECONDS_MAX
        try:
            future = self._lane.submit(
                observed.inputs, outputs, deadline=deadline, encode=_as_it_is
            )
            began = time.monotonic()
            inference = future.result(2 * INFERENCE_SECONDS_MAX)
            latency_ms = (time.monotonic() - began) * 1000
            problem = difference(
                observed.outputs, inference.outputs, self._shadow, self._places_rng
            )
        except (NoRoom, Refused):
            with self._lock:  # another model needs the memory, or it is being started again
                self._count(dropped=1)
            return
        except (MailboatError, TimeoutError) as error:
            if self._closed.is_set():
                return  # the lane was taken away; that is no failure of the candidate
            self._note(f"the candidate failed: {error}", failed=1)
            return
        with self._lock:
            self._candidate_latency.add(latency_ms)
            self._live_latency.add(observed.latency_ms)
        if problem:
            self._note(problem, differed=1)
        else:
            self._note("", agreed=1)

    def _note(self, problem: str, **counts: int) -> None:
        with self._lock:
            self._count(**counts)
            if problem and len(self._differences) < DIFFERENCES_MAX:
                self._differences.append(problem[:DIFFERENCE_CHARS_MAX])

    def _count(self, **counts: int) -> None:
        self._counts = self._counts.plus(ShadowSum(**counts))


def _as_it_is(_: ServedRelease, inference: Inference) -> Inference:
    return inference
