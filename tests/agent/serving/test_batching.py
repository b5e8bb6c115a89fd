"""Requests that run as one: joined, taken apart, and none of them harmed by its neighbours."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from mailboat_agent.serving.batching import CannotSplit, can_be_joined, join_key, joined, split
from mailboat_agent.serving.process import Inference, InferenceFailed
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.serving.tensors import Tensor
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.serving_policy import ServingPolicy


def x(*rows: float) -> Tensor:
    array = np.array([[value] * 4 for value in rows], np.float32)
    return Tensor("x", "FP32", (len(rows), 4), array.tobytes())


def batched(bench: Any, model: bytes, size: int = 8, **more: Any) -> Any:
    release = bench.release(model, **more)
    policy = ServingPolicy(batch_size_max=size)
    variant = release.variant.model_copy(update={"serving": policy})
    return type(release)(
        **{name: getattr(release, name) for name in release.__slots__} | {"variant": variant}
    )


def ask(runtime: Runtime, *rows: float) -> Any:
    return runtime.submit(
        "m",
        None,
        [x(*rows)],
        [],
        deadline=time.monotonic() + 60,
        encode=lambda _, inference: inference.outputs[0].values()[::4],
    )


def test_what_is_joined_comes_apart_the_same() -> None:
    requests = [[x(1)], [x(2, 3)], [x(4)]]
    (tensor,) = joined(requests)
    whole = Tensor("y", "FP32", tensor.shape, b"".join(map(bytes, tensor.parts)))
    parts = split(Inference((whole,), 1.0), [1, 2, 1])

    assert tensor.shape == (4, 4)
    assert [part.outputs[0].shape for part in parts] == [(1, 4), (2, 4), (1, 4)]
    assert [bytes(p.outputs[0].data) for p in parts] == [bytes(r[0].data) for r in requests]


def test_an_answer_with_other_rows_is_not_taken_apart() -> None:
    for shape in ((3, 4), (), (1, 2)):
        answer = Inference((Tensor("y", "FP32", shape, b""),), 1.0)
        with pytest.raises(CannotSplit):
            split(answer, [1, 1])


def test_only_rows_of_a_fixed_size_can_be_joined(x_to_y: Interface) -> None:
    def with_input(**changed: Any) -> Interface:
        inputs = [{"name": "x", "dtype": "float32", "shape": [-1, 4]} | changed]
        return Interface.model_validate({"inputs": inputs, "outputs": x_to_y.outputs})

    assert can_be_joined(x_to_y)
    assert not can_be_joined(with_input(shape=[1, 4]))
    assert not can_be_joined(with_input(shape=[]))
    assert not can_be_joined(with_input(dtype="string"))


def test_requests_of_different_shapes_or_outputs_are_not_joined() -> None:
    wide = Tensor("x", "FP32", (1, 5), bytes(20))

    assert join_key([x(1)], ()) == join_key([x(1, 2)], ())
    assert join_key([x(1)], ()) != join_key([wide], ())
    assert join_key([x(1)], ()) != join_key([x(1)], ("y",))
    assert join_key([Tensor("x", "FP32", (0, 4), b"")], ()) is None


def until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < give_up, "it never came true"
        time.sleep(0.005)


def while_stopped(runtime: Runtime, *requests: tuple[float, ...]) -> list[Any]:
    """Asked while the worker stands still, so that they wait together behind the first."""
    pid = runtime.worker_pid("m")
    os.kill(pid, signal.SIGSTOP)
    busy = ask(runtime, 0)
    until(busy.running)
    futures = [ask(runtime, *rows) for rows in requests]
    os.kill(pid, signal.SIGCONT)
    busy.result(60)
    return futures


def test_each_gets_its_own_rows_back(runtime: Runtime, bench: Any, models: Any) -> None:
    runtime.serve(batched(bench, models.affine()))
    futures = while_stopped(runtime, (1,), (2, 3), (4,), (5, 6, 7))
    answers = [future.result(60) for future in futures]

    assert answers == [(3,), (5, 7), (9,), (11, 13, 15)]


def test_requests_run_in_batches(
    runtime: Runtime, bench: Any, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.serve(batched(bench, models.affine()))
    seen: list[int] = []
    worker = runtime._lanes.get("m")._standing.worker  # type: ignore[union-attr]
    begin = worker.begin

    def seeing(inputs: Any, **more: Any) -> None:
        seen.append(inputs[0].shape[0])
        begin(inputs, **more)

    monkeypatch.setattr(worker, "begin", seeing)
    for future in while_stopped(runtime, *((n,) for n in range(16))):
        future.result(60)

    assert seen == [1, 8, 8]


def test_one_bad_request_does_not_fail_its_neighbours(
    runtime: Runtime, bench: Any, models: Any
) -> None:
    runtime.serve(batched(bench, models.picky()))
    good, bad, also_good = while_stopped(runtime, (1,), (9,), (3,))

    assert (good.result(60), also_good.result(60)) == ((1,), (3,))
    with pytest.raises(InferenceFailed, match="out of"):
        bad.result(60)
    stats = runtime.snapshot("m")
    assert stats is not None
    assert (stats.requests_ok, stats.requests_error) == (3, 1)


@pytest.mark.slow
def test_a_request_that_kills_the_worker_takes_no_neighbour_with_it(
    runtime: Runtime, bench: Any, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.serve(batched(bench, models.affine()))
    worker = runtime._lanes.get("m")._standing.worker  # type: ignore[union-attr]
    begin, killed = worker.begin, []

    def killing(inputs: Any, **more: Any) -> None:
        if inputs[0].shape[0] < 3:
            begin(inputs, **more)
            return
        os.kill(worker.pid, signal.SIGSTOP)
        begin(inputs, **more)
        os.kill(worker.pid, signal.SIGKILL)  # while the three run as one
        killed.append(inputs[0].shape[0])

    monkeypatch.setattr(worker, "begin", killing)
    futures = while_stopped(runtime, (1,), (2,), (3,))

    assert [future.result(60)[0] for future in futures] == [3, 5, 7]
    assert killed == [3]
    stats = runtime.snapshot("m")
    assert stats is not None
    assert (stats.requests_error, stats.worker_restarts) == (0, 1)


def test_a_model_whose_answers_do_not_split_is_run_one_by_one(
    runtime: Runtime, bench: Any, models: Any
) -> None:
    """It says that it has rows, and answers with one for all of them."""
    first = numpy_helper.from_array(np.array([True]), "first")
    compress = helper.make_node("Compress", ["x", "first"], ["y"], axis=0)
    runtime.serve(batched(bench, models.of([compress], [first])))
    futures = while_stopped(runtime, (1,), (2,), (3,))

    assert [future.result(60) for future in futures] == [(1,), (2,), (3,)]
    again = while_stopped(runtime, (4,), (5,))
    assert [future.result(60) for future in again] == [(4,), (5,)]
    assert runtime._lanes.get("m")._queue.rows_max == 1  # type: ignore[union-attr]
