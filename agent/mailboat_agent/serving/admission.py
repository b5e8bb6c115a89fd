"""The queue before a worker: who is let in, who goes next, and who goes together.

Real-time before batch work, each with its bound, and neither can starve: a request of the batch
class goes after so many runs of real-time ones, or after so long. Who would wait longer than it
can is told at once, not when its time is over. Requests that may run as one are taken together;
for others to come they wait only if the last arrivals say that others will.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from mailboat_agent.serving.batching import JoinKey
from mailboat_agent.serving.process import Description, Inference
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.tensors import Tensor
from mailboat_schemas.documents.serving_policy import Workload
from mailboat_schemas.errors import Transient

QUEUE_REQUESTS_MAX = 256  # of each class
QUEUE_BYTES_MAX = 64 << 20  # of inputs that wait, both classes together
REAL_TIME_RUNS_IN_A_ROW_MAX = 8  # while batch work waits
BATCH_WORK_WAITS_SECONDS_MAX = 0.5  # then it goes next
RETRY_SECONDS_MIN = 1.0
_NEWEST_WEIGHT = 0.2  # of the newest run, and arrival, in what the next are expected to be
_ARRIVAL_SECONDS_MAX = 10.0  # nobody has asked for so long: nobody is expected


class Refused(Transient):
    """The request was not run, and that says nothing about the release. Try again later."""

    code = "E-SERVING-BUSY"


class DeadlinePassed(Refused):
    """The request waited longer than its caller would."""

    code = "E-SERVING-DEADLINE"


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """One request. ``deadline`` is of `time.monotonic`; without ``join_key`` it runs alone."""

    inputs: Sequence[Tensor]
    outputs: Sequence[str]
    deadline: float
    encode: Callable[[ServedRelease, Inference], Any]
    future: Future[Any]
    checked: Description | None = None  # that its inputs were held against
    workload: Workload = Workload.REAL_TIME
    join_key: JoinKey | None = None
    rows: int = 1
    retried: bool = False  # its neighbours were to blame, or it is
    accepted_at: float = field(default_factory=time.monotonic)

    @property
    def input_bytes(self) -> int:
        return sum(len(tensor.data) for tensor in self.inputs)

    def refuse(self, error: Exception) -> bool:
        """Tell who waits, in the lane's thread; False if they do not wait any more."""
        # One that was taken before and put back is running already.
        if not self.future.running() and not self.future.set_running_or_notify_cancel():
            return False
        self.future.set_exception(error)
        return True


class RequestQueue:
    """Any thread may `put`; one takes."""

    def __init__(self, *, rows_max: int = 1, delay_seconds_max: float = 0) -> None:
        """
        Args:
            rows_max: of requests that run as one.
            delay_seconds_max: that a request may wait for others.
        """
        self.rows_max = rows_max
        self._delay_seconds_max = delay_seconds_max
        self._waiting: dict[Workload, deque[Job]] = {each: deque() for each in Workload}
        self._bytes = 0
        self._changed = threading.Condition()
        self._closed = self._woken = False
        self._company = 1  # requests there were when one was taken last
        self._real_time_runs = 0  # since batch work ran last
        self._run_seconds: float | None = None
        self._running_since: float | None = None
        self._arrival_seconds = _ARRIVAL_SECONDS_MAX  # between two requests
        self._last_arrival = time.monotonic() - _ARRIVAL_SECONDS_MAX

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, job: Job) -> None:
        """Let a request in.

        Raises:
            DeadlinePassed: its time was over when it came.
            Refused: too many wait already, or it would wait past its deadline.
        """
        now = job.accepted_at
        if job.deadline <= now:
            raise DeadlinePassed(
                "The request's time was over before it could wait for its turn.",
                next_step="allow more time for it.",
            )
        with self._changed:
            wait_seconds = self._expected_wait(job, now)
            if len(self._waiting[job.workload]) >= QUEUE_REQUESTS_MAX:
                raise _busy(f"{QUEUE_REQUESTS_MAX} requests wait already.", wait_seconds)
            if self._bytes + job.input_bytes > max(QUEUE_BYTES_MAX, job.input_bytes):
                raise _busy(f"Requests of {QUEUE_BYTES_MAX} bytes wait already.", wait_seconds)
            if wait_seconds > 0 and now + wait_seconds > job.deadline:
                raise _busy(
                    f"The request would wait {wait_seconds:.2g} s, longer than it can.",
                    now + wait_seconds - job.deadline,
                )
            self._note_arrival(now)
            self._waiting[job.workload].append(job)
            self._bytes += job.input_bytes
            self._changed.notify()

    def put_back(self, jobs: Sequence[Job]) -> None:
        """To the front, for those that were taken and shall run after all."""
        with self._changed:
            for job in reversed(jobs):
                self._waiting[job.workload].appendleft(job)
                self._bytes += job.input_bytes
            self._changed.notify()

    def take(self, timeout_seconds: float) -> list[Job] | None:
        """What runs next, as one; empty when nothing came in time, None once closed and empty."""
        with self._changed:
            self._running_since = None
            self._changed.wait_for(
                lambda: len(self) or self._closed or self._woken, timeout_seconds
            )
            self._woken = False
            if not len(self):
                return None if self._closed else []
            self._wait_for_company()
            chosen = self._choose(time.monotonic())
            self._running_since = time.monotonic()
            return chosen

    def take_full(self) -> list[Job]:
        """A full run of real-time requests that waits already; empty if there is none.

        To have it follow at once on one that runs: nothing would be gained by its waiting, unless
        its time may be over before its turn comes.
        """
        with self._changed:
            now, waiting = time.monotonic(), self._waiting[Workload.REAL_TIME]
            if not waiting or self._run_seconds is None or self._next_class(now) is not waiting:
                return []
            first, rows = waiting[0], 0
            if first.deadline < now + self._run_seconds:
                return []
            if first.join_key is not None:
                rows = sum(job.rows for job in waiting if job.join_key == first.join_key)
                if rows < self.rows_max:
                    return []
            return self._choose(now)

    def take_all(self) -> list[Job]:
        with self._changed:
            jobs = [job for waiting in self._waiting.values() for job in waiting]
            for waiting in self._waiting.values():
                waiting.clear()
            self._bytes = 0
            return jobs

    def close(self) -> None:
        """What waits can still be taken. Nothing prevents a `put`; its caller does."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def wake(self) -> None:
        """Have `take` return at once, with nothing if nothing waits."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def note_run(self, seconds: float) -> None:
        """How long a run took, from its start to its answers."""
        with self._changed:
            self._run_seconds = _moved(self._run_seconds, seconds)

    # --- under the lock --------------------------------------------------------------------------

    def _expected_wait(self, job: Job, now: float) -> float:
        """Seconds from now to the start of its run; 0 if it is next, or nothing is known yet."""
        if self._run_seconds is None:
            return 0.0
        ahead = len(self._waiting[Workload.REAL_TIME])
        if job.workload is Workload.BATCH:
            ahead += len(self._waiting[Workload.BATCH])
        runs = -(-ahead // self.rows_max)
        if job.workload is Workload.REAL_TIME and self._waiting[Workload.BATCH]:
            runs += runs // REAL_TIME_RUNS_IN_A_ROW_MAX
        rest = 0.0
        if self._running_since is not None and ahead:
            # One that takes long already may be done any moment, or hang.
            rest = max(0.0, self._run_seconds - (now - self._running_since))
        return runs * self._run_seconds + rest

    def _note_arrival(self, now: float) -> None:
        since = min(_ARRIVAL_SECONDS_MAX, max(0.0, now - self._last_arrival))
        self._last_arrival = now
        # After a pause the old rate says nothing: one long gap forgets it.
        known = self._arrival_seconds
        self._arrival_seconds = since if since > 4 * known else _moved(known, since)

    def _wait_for_company(self) -> None:
        """For others to join what runs next, when they are expected within the allowed delay.

        As many as there were at the last run may come again. A caller who is alone never waits: it
        asks again once it has its answer.
        """
        oldest = self._next_class(time.monotonic())[0]
        if self._delay_seconds_max <= 0 or oldest.join_key is None:
            return
        company = min(self._company, self.rows_max)
        run_seconds = self._run_seconds or 0.0
        until = min(oldest.accepted_at + self._delay_seconds_max, oldest.deadline - run_seconds)
        while not self._closed and (left := until - time.monotonic()) > 0:
            lacking = company - len(self._waiting[oldest.workload])
            if lacking <= 0 or self._arrival_seconds > left:
                return
            if not self._changed.wait(min(left, self._arrival_seconds * lacking)):
                return

    def _next_class(self, now: float) -> deque[Job]:
        urgent, patient = self._waiting[Workload.REAL_TIME], self._waiting[Workload.BATCH]
        if not patient:
            return urgent
        waited = now - patient[0].accepted_at > BATCH_WORK_WAITS_SECONDS_MAX
        runs_max = 1 if waited else REAL_TIME_RUNS_IN_A_ROW_MAX
        its_turn = self._real_time_runs >= runs_max
        return patient if its_turn or not urgent else urgent

    def _choose(self, now: float) -> list[Job]:
        waiting = self._next_class(now)
        first = waiting.popleft()
        self._real_time_runs = 0 if first.workload is Workload.BATCH else self._real_time_runs + 1
        chosen, rows = [first], first.rows
        if first.join_key is not None:
            for job in tuple(waiting):
                if job.join_key == first.join_key and rows + job.rows <= self.rows_max:
                    waiting.remove(job)
                    chosen.append(job)
                    rows += job.rows
                if rows >= self.rows_max:
                    break
        self._bytes -= sum(job.input_bytes for job in chosen)
        self._company = len(chosen) + len(waiting)
        return chosen


def _busy(what: str, seconds: float) -> Refused:
    return Refused(
        what,
        next_step="send the request again after the given time.",
        retry_after=timedelta(seconds=max(RETRY_SECONDS_MIN, seconds)),
    )


def _moved(average: float | None, newest: float) -> float:
    return newest if average is None else average + _NEWEST_WEIGHT * (newest - average)
