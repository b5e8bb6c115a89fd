import time
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from mailboat_agent.serving.admission import (
    BATCH_WORK_WAITS_SECONDS_MAX,
    QUEUE_BYTES_MAX,
    QUEUE_REQUESTS_MAX,
    REAL_TIME_RUNS_IN_A_ROW_MAX,
    DeadlinePassed,
    Job,
    Refused,
    RequestQueue,
)
from mailboat_agent.serving.batching import join_key
from mailboat_agent.serving.tensors import Tensor
from mailboat_schemas.documents.serving_policy import Workload

REAL_TIME, BATCH = Workload.REAL_TIME, Workload.BATCH


def job(
    workload: Workload = REAL_TIME,
    *,
    rows: int = 1,
    seconds: float = 60,
    joins: bool = True,
    data: Any = None,
    age_seconds: float = 0,
) -> Job:
    array = np.zeros((rows, 4), np.float32)
    inputs = (Tensor("x", "FP32", (rows, 4), array.tobytes() if data is None else data),)
    now = time.monotonic() - age_seconds
    return Job(
        inputs=inputs,
        outputs=(),
        deadline=now + seconds,
        encode=lambda _, inference: inference,
        future=Future(),
        workload=workload,
        join_key=join_key(inputs, ()) if joins else None,
        rows=rows,
        accepted_at=now,
    )


def filled(queue: RequestQueue, *jobs: Job) -> RequestQueue:
    for each in jobs:
        queue.put(each)
    return queue


def taken(queue: RequestQueue) -> list[Workload]:
    found = []
    while jobs := queue.take(0):
        found += [each.workload for each in jobs]
    return found


def test_real_time_goes_before_batch_work() -> None:
    queue = filled(RequestQueue(), job(BATCH), job(REAL_TIME), job(BATCH), job(REAL_TIME))

    assert taken(queue) == [REAL_TIME, REAL_TIME, BATCH, BATCH]


def test_batch_work_goes_after_so_many_runs_of_real_time_ones() -> None:
    queue = filled(RequestQueue(), *(job() for _ in range(20)), job(BATCH), job(BATCH))
    found = taken(queue)

    n = REAL_TIME_RUNS_IN_A_ROW_MAX
    assert [position for position, each in enumerate(found) if each is BATCH] == [n, 2 * n + 1]


def test_batch_work_that_waited_for_long_takes_turns_with_real_time() -> None:
    late = BATCH_WORK_WAITS_SECONDS_MAX + 0.1
    queue = filled(RequestQueue(), *(job(BATCH, age_seconds=late) for _ in range(3)))
    filled(queue, *(job() for _ in range(3)))

    assert taken(queue) == [REAL_TIME, BATCH, REAL_TIME, BATCH, REAL_TIME, BATCH]


def test_each_class_has_its_own_bound() -> None:
    queue = filled(RequestQueue(), *(job(BATCH) for _ in range(QUEUE_REQUESTS_MAX)))

    with pytest.raises(Refused, match="256 requests wait"):
        queue.put(job(BATCH))
    queue.put(job(REAL_TIME))


def test_what_waits_is_bounded_in_bytes_and_a_single_one_is_always_let_in() -> None:
    half = bytes(QUEUE_BYTES_MAX // 2)
    queue = filled(RequestQueue(), job(data=half), job(data=half))

    with pytest.raises(Refused, match="bytes wait"):
        queue.put(job())
    while queue.take(0):
        pass
    queue.put(job(data=bytes(QUEUE_BYTES_MAX + 1)))


def test_who_would_wait_too_long_is_told_at_once_and_when_to_come_back() -> None:
    queue = RequestQueue()
    queue.note_run(seconds=2.0)
    filled(queue, *(job() for _ in range(10)))  # 20 s of work

    with pytest.raises(Refused, match="would wait 20 s") as refused:
        queue.put(job(seconds=5))
    queue.put(job(seconds=25))

    assert refused.value.retry_after is not None
    assert 14 <= refused.value.retry_after.total_seconds() <= 16


def test_whose_time_is_over_is_told_so_and_not_to_come_back() -> None:
    queue = RequestQueue()

    with pytest.raises(DeadlinePassed):
        queue.put(job(seconds=0))
    assert len(queue) == 0


def test_a_slow_run_refuses_nobody_while_nothing_waits() -> None:
    """Otherwise one run of a minute would close the queue for good."""
    queue = RequestQueue()
    queue.note_run(seconds=60)

    queue.put(job(seconds=1))


def test_what_waits_is_taken_together_up_to_the_size_of_a_batch() -> None:
    queue = filled(RequestQueue(rows_max=4), *(job() for _ in range(6)))

    assert [len(queue.take(0) or []) for _ in range(3)] == [4, 2, 0]


def test_a_request_with_rows_of_its_own_counts_with_them() -> None:
    queue = filled(RequestQueue(rows_max=4), job(rows=3), job(rows=2), job(rows=1), job(rows=9))

    assert [[each.rows for each in queue.take(0) or []] for _ in range(3)] == [[3, 1], [2], [9]]


def test_what_cannot_be_joined_goes_alone() -> None:
    queue = filled(RequestQueue(rows_max=4), job(joins=False), job(), job(), job(joins=False))

    assert [len(queue.take(0) or []) for _ in range(3)] == [1, 2, 1]


def test_a_caller_who_is_alone_never_waits_for_company() -> None:
    queue = RequestQueue(rows_max=8, delay_seconds_max=60)
    began = time.monotonic()
    for _ in range(5):
        queue.put(job())
        queue.take(0)

    assert time.monotonic() - began < 30


def test_company_that_came_before_is_waited_for_but_not_longer_than_allowed() -> None:
    queue = RequestQueue(rows_max=8, delay_seconds_max=0.05)
    filled(queue, *(job() for _ in range(8)))
    assert len(queue.take(0) or []) == 8
    queue.put(job())
    began = time.monotonic()

    assert len(queue.take(0) or []) == 1
    assert time.monotonic() - began < 30


def test_nobody_waits_for_company_past_its_deadline() -> None:
    queue = RequestQueue(rows_max=8, delay_seconds_max=60)
    queue.note_run(seconds=0.01)
    filled(queue, *(job() for _ in range(8)))
    queue.take(0)
    queue.put(job(seconds=0.03))
    began = time.monotonic()
    queue.take(0)

    assert time.monotonic() - began < 30  # of the minute that it may wait


def test_a_run_follows_at_once_only_if_it_is_full_and_in_time() -> None:
    queue = filled(RequestQueue(rows_max=2), job())
    assert queue.take_full() == []  # nobody knows yet how long a run takes
    queue.note_run(seconds=0.1)
    assert queue.take_full() == []
    queue.put(job())
    assert len(queue.take_full()) == 2
    queue.put(job(rows=2, seconds=0.05))
    assert queue.take_full() == []


def test_a_closed_queue_gives_out_what_waits_and_then_nothing() -> None:
    queue = filled(RequestQueue(), job())
    queue.close()

    assert len(queue.take(1) or []) == 1
    assert queue.take(1) is None


def test_who_takes_is_woken_though_nothing_waits() -> None:
    """Another model needs the memory now, not when the next request comes."""
    queue = RequestQueue()
    queue.wake()

    began = time.monotonic()
    assert queue.take(120) == []
    assert time.monotonic() - began < 60


def test_a_request_that_ran_before_can_be_refused_and_one_given_up_needs_no_answer() -> None:
    ran, given_up = job(), job()
    ran.future.set_running_or_notify_cancel()
    given_up.future.cancel()

    assert ran.refuse(Refused("no", next_step="wait"))
    assert not given_up.refuse(Refused("no", next_step="wait"))
    with pytest.raises(Refused):
        ran.future.result(0)
