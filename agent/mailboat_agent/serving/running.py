"""Requests run: those that were taken together as one, each answered for itself."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from mailboat_agent.serving import batching
from mailboat_agent.serving.admission import DeadlinePassed, Job, Refused, RequestQueue
from mailboat_agent.serving.interface import check_request
from mailboat_agent.serving.process import Inference, InferenceFailed, WorkerDied, WorkerHung
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.shared_tensors import JoinedTensor
from mailboat_agent.serving.standing import Standing
from mailboat_agent.serving.tensors import BadTensors, Tensor
from mailboat_agent.serving.window import ServingCounters

OUT_OF_MEMORY_IN_A_ROW_MAX = 3  # one request may ask for too much; three say that it has leaked
JOINED_IN_VAIN_MAX = 3  # batches that failed though each of their requests runs alone
FOLLOWING_SECONDS_MAX = 1.0  # then the lane looks at what else there is
Observer = Callable[[ServedRelease, Sequence[Tensor], Sequence[Tensor], float], None]
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Flight:
    """What the worker has been asked as one."""

    jobs: Sequence[Job]
    began: float  # time.monotonic
    error: Exception | None = None  # that it could not be asked


class Runs:
    """Used by the lane's thread alone."""

    def __init__(
        self,
        release: ServedRelease,
        *,
        standing: Standing,
        queue: RequestQueue,
        counters: ServingCounters,
        inference_seconds_max: float,
        observe: Observer | None,
        cut_off: threading.Event,
    ) -> None:
        """``observe`` is told of each answer after it is given; latency in milliseconds."""
        self._release = release
        self._standing = standing
        self._queue = queue
        self._counters = counters
        self._inference_seconds_max = inference_seconds_max
        self._observe = observe
        self._cut_off = cut_off
        self._out_of_memory_in_a_row = self._joined_in_vain = 0
        self._last_end = 0.0  # of a run, monotonic

    @property
    def joins(self) -> bool:
        return self._queue.rows_max > 1

    def answer(self, jobs: Sequence[Job]) -> str | None:
        """Answer those that still want one, and full runs that wait behind them, for a while.

        Each is with the worker before the one before it has been answered, so that the worker does
        not wait for us. Returns why the worker has to be started again.
        """
        until = time.monotonic() + FOLLOWING_SECONDS_MAX
        failed: list[tuple[Sequence[Job], Exception]] = []  # to be run one by one
        flight = self._begin(jobs)
        while flight is not None:
            following = self._begin_another() if time.monotonic() < until and not failed else None
            why = self._end(flight, failed)
            if why is not None:
                if following is not None:
                    self._queue.put_back(following.jobs)
                for batch, _ in failed:
                    self._queue.put_back([_alone(job) for job in batch])
                return why
            flight = following
        for position, (batch, error) in enumerate(failed):
            if (why := self._answer_each(batch, error)) is not None:
                for later, _ in failed[position + 1 :]:
                    self._queue.put_back([_alone(job) for job in later])
                return why
        return None

    def _begin(self, jobs: Sequence[Job]) -> "_Flight | None":
        jobs = [job for job in jobs if self._still_wanted(job)]
        if not jobs:
            return None
        flight = _Flight(jobs, time.monotonic())
        try:
            self._standing.worker.begin(
                _inputs_of(jobs),
                outputs=jobs[0].outputs,
                deadline_seconds=self._inference_seconds_max,
            )
        except Exception as error:  # noqa: BLE001 - the thread outlives whatever one request does
            flight.error = error
        return flight

    def _begin_another(self) -> "_Flight | None":
        jobs = self._queue.take_full()
        if not jobs:
            return None
        if not self._standing.worker.if_it_fits(_inputs_of(jobs)):
            self._queue.put_back(jobs)
            return None
        return self._begin(jobs)

    def _end(self, flight: "_Flight", failed: list[tuple[Sequence[Job], Exception]]) -> str | None:
        jobs = flight.jobs
        began = max(flight.began, self._last_end)
        try:
            inferences = self._outcome(flight)
        except (WorkerDied, WorkerHung) as error:
            if len(jobs) == 1:
                self._fail(jobs[0], error)
            else:  # one of them did it, and goes down alone the next time
                self._queue.put_back([_alone(job) for job in jobs])
            return error.what
        except Exception as error:  # noqa: BLE001 - the thread outlives whatever one answer does
            if len(jobs) > 1:
                failed.append((jobs, error))
                return None
            self._fail(jobs[0], error)
            return self._leaking(error)
        finally:
            self._last_end = time.monotonic()
        self._out_of_memory_in_a_row = 0
        self._queue.note_run(self._last_end - began)
        self._standing.note_use()
        for job, inference in zip(jobs, inferences, strict=True):
            self._finish(job, inference, began)
        return None

    def _outcome(self, flight: "_Flight") -> Sequence[Inference]:
        if flight.error is not None:
            raise flight.error
        inference = self._standing.worker.finish(
            outputs=flight.jobs[0].outputs, deadline_seconds=self._inference_seconds_max
        )
        if len(flight.jobs) == 1:
            return [inference]
        return batching.split(inference, [job.rows for job in flight.jobs])

    def _answer_each(self, jobs: Sequence[Job], error: Exception) -> str | None:
        """A batch failed: its requests are run one by one, so that one does not fail the others."""
        errors = self._counters.error
        for position, job in enumerate(jobs):
            if (why := self._answer_alone(job)) is not None:
                self._queue.put_back([_alone(job) for job in jobs[position + 1 :]])
                return why
        if self._counters.error == errors:
            self._joined_in_vain += 1
        if isinstance(error, batching.CannotSplit) or self._joined_in_vain >= JOINED_IN_VAIN_MAX:
            named = f"{self._release.model} {self._release.version}"
            _log.warning("%s does not run in batches: %s", named, error)
            self._queue.rows_max = 1
        return None

    def _answer_alone(self, job: Job) -> str | None:
        flight = self._begin([_alone(job)])
        return None if flight is None else self._end(flight, [])

    def _leaking(self, error: Exception) -> str | None:
        if not isinstance(error, InferenceFailed) or error.kind != "out_of_memory":
            return None
        self._out_of_memory_in_a_row += 1
        if self._out_of_memory_in_a_row < OUT_OF_MEMORY_IN_A_ROW_MAX:
            return None
        self._out_of_memory_in_a_row = 0
        self._standing.worker.kill()
        return "its memory was used up"

    def _still_wanted(self, job: Job) -> bool:
        if not job.future.running() and not job.future.set_running_or_notify_cancel():
            self._counters.count_refused(job.workload)  # its caller has given up waiting
            return False
        try:
            if time.monotonic() >= job.deadline:
                self._counters.count_refused(job.workload)
                raise DeadlinePassed(
                    "The request waited for its whole deadline.",
                    next_step="send fewer requests at once, or allow more time.",
                )
            if self._cut_off.is_set():
                self._counters.count_refused(job.workload)
                raise withdrawn()
            if job.checked is not self._standing.description:  # it came before the worker
                check_request(
                    self._release.interface, self._standing.description, job.inputs, job.outputs
                )
        except (Refused, BadTensors) as error:
            job.future.set_exception(error)
            return False
        return True

    def _finish(self, job: Job, inference: Inference, began: float) -> None:
        try:
            answer = job.encode(self._release, inference)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(job, error)
            return
        if self._cut_off.is_set():  # while it was being worked out
            self._counters.count_refused(job.workload)
            job.future.set_exception(withdrawn())
            return
        latency_ms = (time.monotonic() - began) * 1000
        self._counters.count_ok(latency_ms, job.workload)
        job.future.set_result(answer)
        if self._observe is not None:
            self._observe(self._release, job.inputs, inference.outputs, latency_ms)

    def _fail(self, job: Job, error: Exception) -> None:
        self._counters.count_error(job.workload)
        job.future.set_exception(error)


def withdrawn() -> Refused:
    return Refused(
        "The release that was asked is not approved any more.",
        next_step="send the request again after the given time.",
        retry_after=timedelta(seconds=1),
    )


def _inputs_of(jobs: Sequence[Job]) -> Sequence[Tensor | JoinedTensor]:
    one = len(jobs) == 1
    return jobs[0].inputs if one else batching.joined([job.inputs for job in jobs])


def _alone(job: Job) -> Job:
    job.join_key, job.retried = None, True
    return job
