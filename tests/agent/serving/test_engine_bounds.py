"""Bounds of lanes and workers, on the day that they are reached."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from mailboat_agent.serving.lane import Begin, Lane
from mailboat_agent.serving.lanes import RETIRED_LANES_MAX, Lanes
from mailboat_agent.serving.process import (
    BEGUN_MAX,
    QUIT_SECONDS_MAX,
    SECOND_BYTES_MAX,
    Worker,
    WorkerOptions,
)
from mailboat_agent.serving.residency import Residency
from mailboat_agent.serving.running import JOINED_IN_VAIN_MAX
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.serving.shared_tensors import SHARED_BYTES_MIN
from mailboat_agent.serving.spawn import STDERR_BYTES_MAX, SpawnedProcess
from mailboat_agent.serving.standing import UNLOAD_SECONDS_MAX
from mailboat_agent.serving.tensors import Tensor
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.serving_policy import ServingPolicy

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MIB = 1 << 20
CPU = WorkerOptions(providers=("CPUExecutionProvider",), threads=1, memory_limit_bytes=512 * MIB)


def x(rows: int = 1, value: float = 1.0) -> Tensor:
    return Tensor("x", "FP32", (rows, 4), np.full((rows, 4), value, np.float32).tobytes())


def ask(runtime: Runtime, model: str = "m", *, of: Tensor | None = None) -> Any:
    return runtime.submit(
        model,
        None,
        [of or x()],
        [],
        deadline=time.monotonic() + 60,
        encode=lambda _, inference: inference.outputs[0].values()[0],
    )


def until(holds: Any, seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up, "it never came true"
        time.sleep(0.01)


def lane_of(runtime: Runtime) -> Lane:
    lane = runtime._lanes.get("m")
    assert lane is not None
    return lane


def test_of_too_many_lanes_that_nobody_drained_the_oldest_is_given_up(
    bench: Any, models: Any
) -> None:
    lanes, release = Lanes(), bench.release(models.affine())
    made = [
        Lane(release, serial=number, clock=lambda: NOON, how=Begin.WHEN_TOLD)
        for number in range(RETIRED_LANES_MAX + 1)
    ]
    for lane in made:
        lanes.retire(lane)

    assert lanes.retired() == tuple(made[1:])
    for lane in made:
        lane.hand_over()


def test_of_what_a_worker_said_last_the_end_is_kept() -> None:
    flood = f"import sys; sys.stderr.write('x' * {4 * STDERR_BYTES_MAX} + 'the end')"
    process = SpawnedProcess(
        subprocess.Popen([sys.executable, "-c", flood], stderr=subprocess.PIPE)
    )
    assert process.wait(60)
    process.kill()

    assert len(process.last_words) == STDERR_BYTES_MAX
    assert process.last_words.endswith("xthe end")


@pytest.mark.slow
def test_a_worker_that_does_not_listen_is_killed(bench: Any, models: Any) -> None:
    worker = Worker.start(bench.open(models.affine()))
    os.kill(worker.pid, signal.SIGSTOP)
    began = time.monotonic()
    worker.close()

    assert not worker.alive
    assert time.monotonic() - began >= QUIT_SECONDS_MAX


@pytest.mark.slow
def test_a_second_request_waits_in_the_worker_if_it_is_small_and_never_a_third(
    bench: Any, models: Any
) -> None:
    worker = Worker.start(bench.open(models.affine()))
    worker.load(CPU, deadline_seconds=30)
    small, large = [x()], [x(SECOND_BYTES_MAX // 16 + 1)]
    worker.begin(small, deadline_seconds=30)

    assert worker.if_it_fits(small)
    assert not worker.if_it_fits(large)  # the memory for it is made before the next one
    for _ in range(1, BEGUN_MAX):
        worker.begin(small, deadline_seconds=30)
    assert not worker.if_it_fits(small)
    for _ in range(BEGUN_MAX):
        worker.finish(deadline_seconds=30)
    worker.infer(large, deadline_seconds=30)
    worker.begin(large, deadline_seconds=30)
    assert worker.if_it_fits(large)
    worker.close()


@pytest.mark.slow
def test_a_model_that_is_asked_all_the_time_gives_its_memory_up_all_the_same(
    bench: Any, models: Any
) -> None:
    residency = Residency(300 * MIB)  # for one of two
    runtime = Runtime(clock=lambda: NOON, residency=residency)
    busy = bench.release(models.looping(20_000))  # some milliseconds
    runtime.serve(busy)
    stop = threading.Event()
    waiting = [ask(runtime) for _ in range(40)]  # so many that it never stands idle

    def keep_asking() -> None:
        while not stop.is_set():
            waiting.pop(0).result(60)
            waiting.append(ask(runtime))

    asking = threading.Thread(target=keep_asking)
    asking.start()
    began = time.monotonic()
    runtime.serve(replace(bench.release(models.affine()), model="n"))
    took = time.monotonic() - began
    stop.set()
    asking.join()
    runtime.close()

    assert took >= UNLOAD_SECONDS_MAX  # what waited went first, for so long


@pytest.mark.slow
def test_a_model_whose_batches_fail_in_vain_is_run_one_by_one(bench: Any, models: Any) -> None:
    constants = {"first": np.array(0), "table": np.zeros(2, np.float32)}
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["rows"]),
        helper.make_node("Gather", ["table", "rows"], ["nothing"]),  # of one row there is
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    model = models.of(nodes, [numpy_helper.from_array(v, name) for name, v in constants.items()])
    release = bench.release(model)
    variant = release.variant.model_copy(update={"serving": ServingPolicy(batch_size_max=8)})
    runtime = Runtime(clock=lambda: NOON)
    runtime.serve(replace(release, variant=variant))
    queue = lane_of(runtime)._queue
    for _ in range(JOINED_IN_VAIN_MAX):
        assert queue.rows_max == 8
        os.kill(runtime.worker_pid("m"), signal.SIGSTOP)
        first = ask(runtime)
        until(lambda: not len(queue))
        together = [ask(runtime) for _ in range(4)]
        os.kill(runtime.worker_pid("m"), signal.SIGCONT)
        assert [each.result(60) for each in (first, *together)] == [1.0] * 5

    until(lambda: queue.rows_max == 1)
    runtime.close()


@pytest.mark.slow
def test_a_worker_that_has_lived_for_long_is_started_again_at_once(
    bench: Any, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailboat_agent.serving.lane.RESTART_CALM_SECONDS", 0)
    runtime = Runtime(clock=lambda: NOON)
    runtime.serve(bench.release(models.affine()))
    for _ in range(3):
        before = runtime.worker_pid("m")
        os.kill(before, signal.SIGKILL)
        until(lambda pid=before: runtime.worker_pid("m") != pid and runtime.ready("m"))  # type: ignore[misc]

    assert lane_of(runtime)._restarts_in_a_row == 1
    runtime.close()


@pytest.mark.slow
def test_rows_that_are_small_alone_follow_at_once_where_they_are_large_together(
    bench: Any, models: Any
) -> None:
    """Otherwise the worker waits for the agent between any two batches of them."""
    wide = Interface.model_validate(
        {
            "inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 2048]}],
            "outputs": [{"name": "y", "dtype": "float32", "shape": [-1, 2048]}],
        }
    )
    release = bench.release(widened(models.affine()), interface=wide)
    variant = release.variant.model_copy(update={"serving": ServingPolicy(batch_size_max=8)})
    runtime = Runtime(clock=lambda: NOON)
    runtime.serve(replace(release, variant=variant))
    regions = lane_of(runtime)._standing.worker._shared._regions
    row = Tensor("x", "FP32", (1, 2048), bytes(4 * 2048))
    assert len(row.data) < SHARED_BYTES_MIN <= 8 * len(row.data)
    for _ in range(2):
        os.kill(runtime.worker_pid("m"), signal.SIGSTOP)
        waiting = [ask(runtime, of=row) for _ in range(33)]
        os.kill(runtime.worker_pid("m"), signal.SIGCONT)
        for each in waiting:
            assert each.result(60) == 1.0

    assert {"inputs0", "inputs1"} <= regions.keys()
    runtime.close()


def widened(model: bytes) -> bytes:
    """Over [batch, 2048] instead of [batch, 4]."""
    made = onnx.load_model_from_string(model)
    for each in (*made.graph.input, *made.graph.output):
        each.type.tensor_type.shape.dim[1].dim_value = 2048
    content: bytes = made.SerializeToString()
    return content
