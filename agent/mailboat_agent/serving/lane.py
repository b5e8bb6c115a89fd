"""One release being served: its worker, the queue before it, and the thread between the two.

Only the lane's thread talks to the worker. It runs what waits, starts a dead worker again, and when
the lane is retired finishes what it has accepted before it ends the worker. A lane may be without a
worker: before its first request, or after another model needed the memory.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import TypeVar

from mailboat_agent.serving import batching
from mailboat_agent.serving.admission import Job, Refused, RequestQueue
from mailboat_agent.serving.interface import check_request
from mailboat_agent.serving.launch import AS_CHILDREN, Launch
from mailboat_agent.serving.process import (
    START_SECONDS_MAX,
    Description,
    Inference,
    WorkerNotStarted,
)
from mailboat_agent.serving.residency import ROOM_SECONDS_MAX, NoRoom, Residency
from mailboat_agent.serving.restart_delay import RESTART_DELAY_SECONDS_MAX, restart_delay_seconds
from mailboat_agent.serving.running import Observer, Runs
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.standing import Keeper, Spare, Standing
from mailboat_agent.serving.tensors import Tensor
from mailboat_agent.serving.window import ServingCounters, ServingStats, ServingWindow
from mailboat_schemas.documents.serving_policy import Workload
from mailboat_schemas.errors import MailboatError

INFERENCE_SECONDS_MAX = 30  # from its start; a worker that takes longer is taken for hung
RESTART_CALM_SECONDS = 60  # a worker that has lived so long has recovered
IDLE_LOOK_SECONDS = 0.5  # how soon a worker that died while nobody asked is started again
STARTED_AGAIN = "The model's worker is being started again."

Answer = TypeVar("Answer")
_log = logging.getLogger(__name__)


class Begin(Enum):
    LOADED = auto()  # with its worker, before the constructor returns
    WITH_FIRST_REQUEST = auto()
    WHEN_TOLD = auto()  # requests wait until `begin`


class Lane:
    """Methods may be called from any thread."""

    def __init__(
        self,
        release: ServedRelease,
        *,
        serial: int,
        clock: Callable[[], datetime],
        launch: Launch = AS_CHILDREN,
        inference_seconds_max: float = INFERENCE_SECONDS_MAX,
        residency: Residency | None = None,
        pinned: bool = False,
        how: Begin = Begin.LOADED,
        observe: Observer | None = None,
        keep: Keeper | None = None,
        spare: Spare | None = None,
    ) -> None:
        """
        Args:
            observe: told of each answer, in the lane's thread.
            keep: offered the worker when the lane ends; True if it was taken.
            spare: a worker that holds this release already, and the memory it holds.

        Raises:
            NoRoom, WorkerNotStarted, WorkerDied, WorkerHung, InferenceFailed, RuntimeUnsupported
        """
        self.release = release
        self.counters = ServingCounters(clock, release.policy.workload)
        self._serial = serial
        self._inference_seconds_max = inference_seconds_max
        self._keep = keep
        policy = release.policy
        self._queue = RequestQueue(
            rows_max=policy.batch_size_max if batching.can_be_joined(release.interface) else 1,
            delay_seconds_max=policy.batch_delay_ms_max / 1000,
        )
        self._lock = threading.Lock()  # of accepting a job and of retiring
        self._retired = threading.Event()
        self._cut_off = threading.Event()
        self._restarts_in_a_row = 0
        self._accepts, self._stands = True, how is Begin.WITH_FIRST_REQUEST
        self._started = self._moved = time.monotonic()
        self._thread = threading.Thread(
            target=self._run, name=f"serving-{release.model}", daemon=True
        )
        self._standing = Standing(
            release,
            launch=launch,
            residency=residency or Residency(),
            pinned=pinned,
            wake=self._queue.wake,
            spare=spare,
        )
        self._runs = Runs(
            release,
            standing=self._standing,
            queue=self._queue,
            counters=self.counters,
            inference_seconds_max=inference_seconds_max,
            observe=observe,
            cut_off=self._cut_off,
        )
        if how is Begin.LOADED:
            try:
                self.begin()
            except BaseException:
                self._standing.close(None)
                raise
        elif how is Begin.WITH_FIRST_REQUEST:
            self._thread.start()

    def begin(self) -> None:
        """Load the worker unless it is, then run what waits. Raises as the constructor."""
        if not self._standing.is_loaded:
            self._standing.load()
        self._stands = True
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether a request is answered now; one to a lane without a worker is, after loading."""
        return self._stands and not self._retired.is_set()

    @property
    def description(self) -> Description:
        return self._standing.description

    @property
    def model_fd(self) -> int:
        return self._standing.model_fd

    @property
    def worker_pid(self) -> int:
        """0 while there is none."""
        return self._standing.worker_pid

    def submit(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[str],
        *,
        deadline: float,
        encode: Callable[[ServedRelease, Inference], Answer],
        workload: Workload | None = None,
    ) -> Future[Answer]:
        """Queue one request.

        ``encode`` is given the release that answers, and runs in the thread of its lane; what it
        raises is the model's.

        Raises:
            BadTensors: the request does not fit the interface.
            Refused: too many wait, it would wait for too long, the worker is being started, or
                the lane is retired.
        """
        description = self.description
        check_request(self.release.interface, description, inputs, outputs)
        job = Job(
            checked=description,
            inputs=inputs,
            outputs=outputs,
            deadline=deadline,
            encode=encode,
            future=Future(),
            workload=workload or self.release.policy.workload,
            join_key=batching.join_key(inputs, outputs) if self._runs.joins else None,
            rows=inputs[0].shape[0] if self._runs.joins else 1,
        )
        with self._lock:
            if self._retired.is_set() or not self._accepts:
                raise self._refusal(STARTED_AGAIN)
            try:
                self._queue.put(job)
            except Refused:
                self.counters.count_refused(job.workload)
                raise
        future: Future[Answer] = job.future
        return future

    def hand_over(self) -> list[Job]:
        """Of a lane that never began: what waits, for another lane. It accepts nothing more."""
        with self._lock:
            self._retired.set()
        self._standing.close(None)
        return self._queue.take_all()

    def abandon(self, error: Exception) -> None:
        """Of a lane that never began: end it, and tell those who wait."""
        for job in self.hand_over():
            job.refuse(error)

    def take_over(self, jobs: Sequence[Job]) -> None:
        self._queue.put_back(jobs)

    def retire(self) -> None:
        """Accept nothing more, finish what waits, end the worker. Returns at once."""
        with self._lock:
            self._retired.set()
            self._queue.close()

    def cut_off(self) -> None:
        """The release was withdrawn: as `retire`, but not even what was accepted is answered."""
        self._cut_off.set()
        self.retire()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for a retired lane; True once its worker is gone."""
        self._thread.join(timeout_seconds) if self._thread.ident else None
        return not self._thread.is_alive()

    def stuck(self, now: float) -> bool:
        """Whether its thread is gone, or has not moved for longer than all it may do takes."""
        deadlines = 2 * self.release.variant.health.deadline_seconds + self._inference_seconds_max
        patience = START_SECONDS_MAX + RESTART_DELAY_SECONDS_MAX + ROOM_SECONDS_MAX + deadlines
        gone = not self._thread.is_alive() or now - self._moved > patience
        return gone and not self._retired.is_set() and self._thread.ident is not None

    def stats(self) -> ServingStats:
        return self.counters.stats(
            model=self.release.model,
            version=self.release.version,
            digest=self.release.digest,
            serial=self._serial,
            peak_memory_bytes=self._standing.peak_memory_bytes(),
            ready=self.ready,
        )

    def drain_window(self) -> ServingWindow:
        latencies = self.counters.swap_windows()  # first: what comes in between is in stats or both
        return ServingWindow(self.stats(), latencies)

    # --- the lane's thread -----------------------------------------------------------------------

    def _run(self) -> None:
        while (jobs := self._queue.take(IDLE_LOOK_SECONDS)) is not None:
            self._moved = time.monotonic()
            if self._standing.should_unload(idle=not jobs):
                self._queue.put_back(jobs)
                self._standing.unload()
            elif self._standing.is_dead:  # before anybody asked it, so nobody is failed by that
                self._queue.put_back(jobs)
                self._restart("it died while idle")
            elif jobs and (self._standing.is_loaded or self._load_for(jobs)):
                why = self._runs.answer(jobs)
                if why is not None:
                    self._restart(why)
        self._standing.close(None if self._cut_off.is_set() else self._keep)

    # --- the worker comes and goes ---------------------------------------------------------------

    def _load_for(self, jobs: Sequence[Job]) -> bool:
        """Load because somebody asks; False if they are not answered now."""
        try:
            self._standing.load()
        except NoRoom as error:
            for job in jobs:
                if job.refuse(error):
                    self.counters.count_refused()
            return False
        except MailboatError as error:
            self._queue.put_back(jobs)
            self._restart(error.what)
            return False
        return True

    def _restart(self, why: str) -> None:
        """Start the worker again, as often as it takes, until it stands or the lane is retired."""
        self._accepts = self._stands = False
        self.counters.count_restart()
        if time.monotonic() - self._started > RESTART_CALM_SECONDS:
            self._restarts_in_a_row = 0
        while not self._retired.is_set():
            self._moved = time.monotonic()
            delay_seconds = restart_delay_seconds(self._restarts_in_a_row)
            self._restarts_in_a_row += 1
            _log.warning(
                "The worker of %s is started again in %.0f s: %s", self._named, delay_seconds, why
            )
            if delay_seconds:
                self._refuse_who_cannot_wait(delay_seconds)
                self._standing.unload()  # what does not live takes no memory from other models
                if self._retired.wait(delay_seconds):
                    break
            try:
                self._standing.load()
            except (NoRoom, WorkerNotStarted) as error:
                why = error.what
                continue
            except MailboatError as error:
                why = error.what
                self.counters.count_restart()  # it came up, and the model ended it again
                continue
            self._started = time.monotonic()
            self._accepts = self._stands = True
            return
        self._refuse_who_cannot_wait(float("inf"))

    def _refuse_who_cannot_wait(self, seconds: float) -> None:
        """Those that came alone, and of those that a neighbour took down whose time is over."""
        back = time.monotonic() + seconds
        waiting = self._queue.take_all()
        patient = [job for job in waiting if job.retried and job.deadline > back]
        self._queue.put_back(patient)
        for job in waiting:
            if job not in patient:
                job.refuse(self._refusal(STARTED_AGAIN))

    @property
    def _named(self) -> str:
        return f"{self.release.model} {self.release.version}"

    def _refusal(self, what: str) -> Refused:
        self.counters.count_refused()
        delay_seconds = restart_delay_seconds(self._restarts_in_a_row)
        return Refused(
            what,
            next_step="send the request again after the given time.",
            retry_after=timedelta(seconds=max(1.0, 0.0 if self._stands else delay_seconds)),
        )
