"""One release being served: its worker, the queue before it, and the thread between the two.

Only the lane's thread talks to the worker. It runs what waits, starts a dead worker again, and when
the lane is retired finishes what it has accepted before it ends the worker.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from mailboat_agent.serving.interface import check_request, differences, smallest_inputs
from mailboat_agent.serving.launch import AS_CHILDREN, Launch
from mailboat_agent.serving.process import (
    START_SECONDS_MAX,
    Description,
    Inference,
    InferenceFailed,
    Worker,
    WorkerDied,
    WorkerHung,
    WorkerNotStarted,
)
from mailboat_agent.serving.requirements import worker_options
from mailboat_agent.serving.restart_delay import RESTART_DELAY_SECONDS_MAX, restart_delay_seconds
from mailboat_agent.serving.tensors import BadTensors, Tensor
from mailboat_agent.serving.window import ServingCounters, ServingStats, ServingWindow
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.release import Variant
from mailboat_schemas.errors import MailboatError, ReleaseRejected, Transient

QUEUE_REQUESTS_MAX = 64  # a second of waiting at 15 ms each; a longer queue only adds latency
INFERENCE_SECONDS_MAX = 30  # from its start; a worker that takes longer is taken for hung
RESTART_CALM_SECONDS = 60  # a worker that has lived so long has recovered
OUT_OF_MEMORY_IN_A_ROW_MAX = 3  # one request may ask for too much; three say that it has leaked
WITHDRAWN = "The release that was asked is not approved any more."
IDLE_LOOK_SECONDS = 0.5  # how soon a worker that died while nobody asked is started again

Answer = TypeVar("Answer")
_log = logging.getLogger(__name__)


class Refused(Transient):
    """The request was not run, and that says nothing about the release. Try again later."""

    code = "E-SERVING-BUSY"


class DeadlinePassed(Refused):
    """The request waited longer than its caller would."""

    code = "E-SERVING-DEADLINE"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRelease:
    """A release whose model file is open and verified.

    ``model_fd`` stays the caller's, who may close it once `Runtime.serve` returns.
    """

    model: str
    version: str
    digest: str
    interface: Interface
    variant: Variant
    model_fd: int
    memory_limit_bytes: int


@dataclass(slots=True)
class _Job:
    inputs: Sequence[Tensor]
    outputs: Sequence[str]
    deadline: float  # time.monotonic
    encode: Callable[[Inference], Any]
    future: Future[Any]


class Lane:
    """Made with its worker loaded and warm. Methods may be called from any thread."""

    def __init__(
        self,
        release: ServedRelease,
        *,
        serial: int,
        clock: Callable[[], datetime],
        launch: Launch = AS_CHILDREN,
        inference_seconds_max: float = INFERENCE_SECONDS_MAX,
    ) -> None:
        self.release = release
        self.counters = ServingCounters(clock)
        self._serial = serial
        self._launch = launch
        self._inference_seconds_max = inference_seconds_max
        self.model_fd = os.dup(release.model_fd)
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._lock = threading.Lock()  # of accepting a job and of retiring
        self._retired = threading.Event()
        self._cut_off = threading.Event()
        self._restarts_in_a_row = 0
        self._out_of_memory_in_a_row = 0
        self._peak_memory_bytes = 0
        try:
            self._worker, self.description = self._start_worker()
        except BaseException:
            os.close(self.model_fd)
            raise
        self._started = self._moved = time.monotonic()
        self._ready = True
        self._thread = threading.Thread(
            target=self._run, name=f"serving-{release.model}", daemon=True
        )
        self._thread.start()

    @property
    def ready(self) -> bool:
        return self._ready and not self._retired.is_set()

    @property
    def worker_pid(self) -> int:
        return self._worker.pid

    def submit(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[str],
        *,
        deadline: float,
        encode: Callable[[Inference], Answer],
    ) -> Future[Answer]:
        """Queue one request. ``encode`` runs in the lane's thread; what it raises is the model's.

        Raises:
            BadTensors: the request does not fit the interface.
            Refused: the queue is full, the worker is being started, or the lane is retired.
        """
        check_request(self.release.interface, self.description, inputs, outputs)
        future: Future[Answer] = Future()
        with self._lock:
            if not self.ready:
                raise self._refusal("The model's worker is being started again.")
            if self._jobs.qsize() >= QUEUE_REQUESTS_MAX:
                raise self._refusal(f"{QUEUE_REQUESTS_MAX} requests wait already.")
            self._jobs.put(_Job(inputs, outputs, deadline, encode, future))
        return future

    def retire(self) -> None:
        """Accept nothing more, finish what waits, end the worker. Returns at once."""
        with self._lock:
            if not self._retired.is_set():
                self._retired.set()
                self._jobs.put(None)

    def cut_off(self) -> None:
        """The release was withdrawn: as `retire`, but not even what was accepted is answered."""
        self._cut_off.set()
        self.retire()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for a retired lane; True once its worker is gone."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def stuck(self, now: float) -> bool:
        """Whether its thread is gone, or has not moved for longer than all it may do takes."""
        deadlines = 2 * self.release.variant.health.deadline_seconds + self._inference_seconds_max
        patience = START_SECONDS_MAX + RESTART_DELAY_SECONDS_MAX + deadlines
        gone = not self._thread.is_alive() or now - self._moved > patience
        return gone and not self._retired.is_set()

    def stats(self) -> ServingStats:
        return self.counters.stats(
            model=self.release.model,
            version=self.release.version,
            digest=self.release.digest,
            serial=self._serial,
            peak_memory_bytes=self._note_peak_memory(),
            ready=self.ready,
        )

    def _note_peak_memory(self) -> int:
        self._peak_memory_bytes = max(self._peak_memory_bytes, self._worker.peak_memory_bytes())
        return self._peak_memory_bytes

    def drain_window(self) -> ServingWindow:
        latency = self.counters.swap_window()  # first: a request in between is in both or in stats
        return ServingWindow(self.stats(), latency)

    # --- the lane's thread -----------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._moved = time.monotonic()
            try:
                job = self._jobs.get(timeout=IDLE_LOOK_SECONDS)
            except queue.Empty:
                if not self._worker.alive:
                    self._restart("it died while idle")
                continue
            if job is None:
                break
            self._answer(job)
        self._worker.close()
        os.close(self.model_fd)

    def _answer(self, job: _Job) -> None:
        if not job.future.set_running_or_notify_cancel():
            self.counters.count_refused()  # its caller has given up waiting
            return
        if time.monotonic() >= job.deadline:
            self.counters.count_refused()
            job.future.set_exception(
                DeadlinePassed(
                    "The request waited for its whole deadline.",
                    next_step="send fewer requests at once, or allow more time.",
                )
            )
            return
        if self._cut_off.is_set():
            job.future.set_exception(self._refusal(WITHDRAWN))
            return
        started = time.monotonic()
        try:
            inference = self._worker.infer(
                job.inputs, outputs=job.outputs, deadline_seconds=self._inference_seconds_max
            )
            answer = job.encode(inference)
        except (WorkerDied, WorkerHung) as error:
            self.counters.count_error()
            job.future.set_exception(error)
            self._restart(error.what)
        except Exception as error:  # noqa: BLE001 - the thread outlives whatever one answer does
            self.counters.count_error()
            job.future.set_exception(error)
            if isinstance(error, InferenceFailed) and error.kind == "out_of_memory":
                self._out_of_memory_in_a_row += 1
                if self._out_of_memory_in_a_row >= OUT_OF_MEMORY_IN_A_ROW_MAX:
                    self._worker.kill()
                    self._restart("its memory was used up")
        else:
            self._out_of_memory_in_a_row = 0
            if self._cut_off.is_set():  # while it was being worked out
                job.future.set_exception(self._refusal(WITHDRAWN))
                return
            self.counters.count_ok((time.monotonic() - started) * 1000)
            job.future.set_result(answer)

    def _restart(self, why: str) -> None:
        """Start the worker again, as often as it takes, until it stands or the lane is retired."""
        self._ready = False
        self._out_of_memory_in_a_row = 0
        self._note_peak_memory()
        self.counters.count_restart()
        if time.monotonic() - self._started > RESTART_CALM_SECONDS:
            self._restarts_in_a_row = 0
        while not self._retired.is_set():
            self._moved = time.monotonic()
            delay_seconds = restart_delay_seconds(self._restarts_in_a_row)
            self._restarts_in_a_row += 1
            _log.warning(
                "The worker of %s %s is started again in %.0f s: %s",
                self.release.model,
                self.release.version,
                delay_seconds,
                why,
            )
            if delay_seconds:
                self._refuse_waiting()
                if self._retired.wait(delay_seconds):
                    break
            try:
                self._worker, self.description = self._start_worker()
            except WorkerNotStarted as error:
                why = error.what
                continue
            except MailboatError as error:
                why = error.what
                self.counters.count_restart()  # it came up, and the model ended it again
                continue
            self._started = time.monotonic()
            self._ready = True
            return
        self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        with self._lock:
            waiting = [self._jobs.get_nowait() for _ in range(self._jobs.qsize())]
            if None in waiting:
                self._jobs.put(None)
        for job in waiting:
            if job is None:
                continue
            refusal = self._refusal("The model's worker is being started again.")
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(refusal)

    def _start_worker(self) -> tuple[Worker, Description]:
        """A worker that is loaded and has run once.

        Raises:
            WorkerNotStarted, WorkerDied, WorkerHung, InferenceFailed, RuntimeUnsupported
        """
        release = self.release
        seconds = release.variant.health.deadline_seconds
        worker = Worker.start(self.model_fd, launch=self._launch)
        try:
            memory_bytes = min(release.variant.peak_memory, release.memory_limit_bytes)
            options = worker_options(release.variant, worker.facts, memory_bytes)
            description = worker.load(options, deadline_seconds=seconds)
            _refuse_other_interface(release.interface, description)
            _warm_up(worker, release.interface, seconds)
        except BaseException:
            worker.kill()
            raise
        return worker, description

    def _refusal(self, what: str) -> Refused:
        self.counters.count_refused()
        delay_seconds = restart_delay_seconds(self._restarts_in_a_row)
        return Refused(
            what,
            next_step="send the request again after the given time.",
            retry_after=timedelta(seconds=max(1.0, 0.0 if self._ready else delay_seconds)),
        )


def _refuse_other_interface(interface: Interface, session: Description) -> None:
    if found := differences(interface, session):
        raise InferenceFailed("load_failed", f"it is not what its document declares: {found[0]}")


def _warm_up(worker: Worker, interface: Interface, seconds: float) -> None:
    """Have onnxruntime allocate before the first caller waits for it.

    A model may well refuse zeros of the smallest shape; that is no verdict. Dying of them is.
    """
    try:
        worker.infer(smallest_inputs(interface), deadline_seconds=seconds)
    except (BadTensors, ReleaseRejected) as error:
        _log.info("The model does not take the warm-up's zeros: %s", error)
