import os
import signal
import threading
import time
from typing import Any

import numpy as np
import psutil
import pytest

from mailboat_agent.serving import lane
from mailboat_agent.serving.admission import QUEUE_REQUESTS_MAX, DeadlinePassed, Refused
from mailboat_agent.serving.process import InferenceFailed, WorkerDied, WorkerHung
from mailboat_agent.serving.restart_delay import RESTART_DELAY_SECONDS_MAX, restart_delay_seconds
from mailboat_agent.serving.running import OUT_OF_MEMORY_IN_A_ROW_MAX
from mailboat_agent.serving.runtime import ModelNotServed, Runtime
from mailboat_agent.serving.tensors import BadTensors, Tensor
from mailboat_schemas.documents.interface import Interface


def ask(
    runtime: Runtime, value: float = 1.0, *, version: str | None = None, seconds: float = 60
) -> Any:
    """The future of (version that answered, first element of y)."""
    array = np.full((1, 4), value, np.float32)
    return runtime.submit(
        "m",
        version,
        [Tensor("x", "FP32", (1, 4), array.tobytes())],
        [],
        deadline=time.monotonic() + seconds,
        encode=lambda release, inference: (release.version, inference.outputs[0].values()[0]),
    )


def wait_until(holds: Any, seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up, "it never came true"
        time.sleep(0.01)


def test_a_swap_under_load_fails_no_request(runtime: Runtime, bench: Any, models: Any) -> None:
    runtime.serve(bench.release(models.affine(2), version="1.0.0"))
    stop = threading.Event()
    answers: list[tuple[str, float]] = []
    errors: list[BaseException] = []

    def load() -> None:
        while not stop.is_set():
            try:
                answers.append(ask(runtime).result())
            except BaseException as error:  # noqa: BLE001 - any failure is what the test is about
                errors.append(error)
            time.sleep(0.002)  # what is under load is the swap, not this machine

    clients = [threading.Thread(target=load) for _ in range(4)]
    for client in clients:
        client.start()
    wait_until(lambda: bool(answers))
    for version, factor in (("1.1.0", 3), ("1.2.0", 4), ("1.1.0", 3)):
        before = len(answers)
        runtime.serve(bench.release(models.affine(factor), version=version))
        wait_until(lambda: version in {v for v, _ in answers[before:]})  # noqa: B023
    stop.set()
    for client in clients:
        client.join()

    assert errors == []
    assert set(answers) == {("1.0.0", 3.0), ("1.1.0", 4.0), ("1.2.0", 5.0)}
    wait_until(lambda: len(psutil.Process().children()) == 1)  # the old workers are gone
    windows = runtime.drain_window("m")
    assert [w.stats.version for w in windows] == ["1.0.0", "1.1.0", "1.2.0", "1.1.0"]
    assert sum(w.stats.requests_ok for w in windows) == len(answers)
    assert sum(w.latency.count for w in windows) == len(answers)


def test_serving_what_is_served_already_changes_nothing(
    runtime: Runtime, bench: Any, models: Any
) -> None:
    runtime.serve(bench.release(models.affine()))
    pid = runtime.worker_pid("m")
    runtime.serve(bench.release(models.affine()))

    assert runtime.worker_pid("m") == pid


def test_a_release_that_does_not_load_leaves_the_old_one_serving(
    runtime: Runtime, bench: Any, models: Any, x_to_y: Interface
) -> None:
    other = Interface(inputs=x_to_y.outputs, outputs=x_to_y.inputs)
    runtime.serve(bench.release(models.affine()))

    with pytest.raises(InferenceFailed):
        runtime.serve(bench.release(b"garbage", version="2.0.0"))
    with pytest.raises(InferenceFailed, match="not declared"):
        runtime.serve(bench.release(models.affine(), version="2.0.0", interface=other))

    assert ask(runtime).result() == ("1.0.0", 3.0)
    assert len(psutil.Process().children()) == 1


def wait_for_another(runtime: Runtime, dead: int) -> None:
    """Who died is taken for ready, by its number, until its lane has noticed."""
    wait_until(lambda: runtime.worker_pid("m") not in (0, dead) and runtime.ready("m"))


def test_a_worker_killed_in_flight_fails_that_request_and_comes_back(
    bench: Any, models: Any
) -> None:
    runtime = Runtime(clock=_noon)
    runtime.serve(bench.release(models.affine()))
    first = runtime.worker_pid("m")
    os.kill(first, signal.SIGSTOP)
    future = ask(runtime)
    wait_until(future.running)
    os.kill(first, signal.SIGKILL)

    with pytest.raises(WorkerDied):
        future.result(60)
    wait_for_another(runtime, first)
    assert ask(runtime).result(60)[1] == 3.0
    stats = runtime.snapshot("m")
    runtime.close()

    assert stats is not None
    assert (stats.requests_ok, stats.requests_error, stats.worker_restarts) == (1, 1, 1)
    assert stats.error_rate == 0.5
    assert stats.last_ok_at == _noon()
    assert stats.peak_memory_bytes > 20 << 20


@pytest.mark.slow
def test_a_worker_that_dies_while_idle_is_started_again(
    runtime: Runtime, bench: Any, models: Any
) -> None:
    runtime.serve(bench.release(models.affine()))
    first = runtime.worker_pid("m")
    os.kill(first, signal.SIGKILL)

    wait_for_another(runtime, first)
    assert ask(runtime).result() == ("1.0.0", 3.0)


@pytest.mark.slow
def test_a_worker_that_dies_again_is_waited_for_and_requests_are_told_how_long(
    runtime: Runtime, bench: Any, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Minutes instead of seconds: it is not back before it is asked.
    monkeypatch.setattr(lane, "restart_delay_seconds", lambda n: 60 * restart_delay_seconds(n))
    runtime.serve(bench.release(models.affine()))
    first = runtime.worker_pid("m")
    os.kill(first, signal.SIGKILL)
    wait_for_another(runtime, first)
    os.kill(runtime.worker_pid("m"), signal.SIGKILL)
    wait_until(lambda: not runtime.ready("m"))

    with pytest.raises(Refused) as refused:
        ask(runtime)

    assert refused.value.retry_after is not None
    assert refused.value.retry_after.total_seconds() >= 60 * 2


def test_a_worker_that_cannot_be_started_again_is_counted_each_time(
    runtime: Runtime, bench: Any, models: Any
) -> None:
    """A soak looks at this number: a release that stays down has not held."""
    runtime.serve(bench.release(models.affine(), on_disk=True))
    (bench.directory / "model.onnx").write_bytes(b"rotten")
    os.kill(runtime.worker_pid("m"), signal.SIGKILL)

    def restarts() -> int:
        stats = runtime.snapshot("m")
        assert stats is not None
        return stats.worker_restarts

    wait_until(lambda: restarts() >= 2)
    assert not runtime.ready("m")


def test_a_worker_whose_memory_stays_used_up_is_started_again(
    runtime: Runtime, bench: Any, models: Any
) -> None:
    runtime.serve(bench.release(models.hungry(2 << 30)))
    first = runtime.worker_pid("m")
    for number in range(OUT_OF_MEMORY_IN_A_ROW_MAX):
        assert runtime.worker_pid("m") == first, number
        with pytest.raises(InferenceFailed) as failed:
            ask(runtime).result()
        assert failed.value.kind == "out_of_memory"

    wait_until(lambda: runtime.worker_pid("m") != first and runtime.ready("m"))
    stats = runtime.snapshot("m")
    assert stats is not None
    assert (stats.requests_error, stats.worker_restarts) == (OUT_OF_MEMORY_IN_A_ROW_MAX, 1)


def test_the_restart_delay_doubles_up_to_its_bound() -> None:
    delays = [restart_delay_seconds(n) for n in range(9)]

    assert delays == [0, 1, 2, 4, 8, 16, 32, 64, RESTART_DELAY_SECONDS_MAX]
    assert restart_delay_seconds(10**6) == RESTART_DELAY_SECONDS_MAX


def test_a_hung_inference_costs_one_request_not_the_model(bench: Any, models: Any) -> None:
    # Slow only when asked for many rows; the warm-up's one row is quick.
    runtime = Runtime(clock=_noon, inference_seconds_max=2)
    runtime.serve(bench.release(models.hungry(64 << 10)))
    quick = ask(runtime).result(60)
    wide = Tensor("x", "FP32", (1, 4), np.ones((1, 4), np.float32).tobytes())
    hung = runtime.worker_pid("m")
    os.kill(hung, signal.SIGSTOP)
    future = runtime.submit(
        "m", None, [wide], [], deadline=time.monotonic() + 60, encode=lambda *_: None
    )

    with pytest.raises(WorkerHung):
        future.result(60)
    wait_for_another(runtime, hung)
    assert ask(runtime).result(60) == quick
    runtime.close()


def test_the_queue_is_bounded_and_what_waits_is_answered(
    runtime: Runtime, bench: Any, models: Any
) -> None:
    runtime.serve(bench.release(models.affine()))
    pid = runtime.worker_pid("m")
    os.kill(pid, signal.SIGSTOP)
    busy = ask(runtime)
    wait_until(busy.running)
    waiting = [ask(runtime, n) for n in range(QUEUE_REQUESTS_MAX)]

    with pytest.raises(Refused) as refused:
        ask(runtime)
    os.kill(pid, signal.SIGCONT)

    assert refused.value.retry_after is not None
    assert [future.result(60)[1] for future in waiting] == [
        2 * n + 1 for n in range(QUEUE_REQUESTS_MAX)
    ]
    stats = runtime.snapshot("m")
    assert stats is not None
    assert (stats.requests_refused, stats.requests_error) == (1, 0)


def test_a_request_that_waited_too_long_is_not_run(
    runtime: Runtime, bench: Any, models: Any
) -> None:
    runtime.serve(bench.release(models.affine()))
    pid = runtime.worker_pid("m")
    os.kill(pid, signal.SIGSTOP)
    busy = ask(runtime)
    wait_until(busy.running)
    late = ask(runtime, seconds=0.5)
    time.sleep(0.5)
    os.kill(pid, signal.SIGCONT)

    with pytest.raises(DeadlinePassed):
        late.result(60)


def test_what_the_client_got_wrong_does_not_count_against_the_release(
    runtime: Runtime, bench: Any, models: Any
) -> None:
    runtime.serve(bench.release(models.picky()))
    wrong = [
        [],
        [Tensor("z", "FP32", (1, 4), bytes(16))],
        [Tensor("x", "FP64", (1, 4), bytes(32))],
        [Tensor("x", "FP32", (1, 5), bytes(20))],
        [Tensor("x", "FP32", (4,), bytes(16))],
        [Tensor("x", "FP32", (1, 4), bytes(16))] * 2,
    ]
    for inputs in wrong:
        with pytest.raises(BadTensors):
            runtime.submit("m", None, inputs, [], deadline=0, encode=lambda *_: None)
    stats = runtime.snapshot("m")

    assert stats is not None
    assert (stats.requests, stats.error_rate) == (0, None)


def test_what_onnxruntime_raises_counts_against_the_release(
    runtime: Runtime, bench: Any, models: Any
) -> None:
    runtime.serve(bench.release(models.picky()))

    assert ask(runtime, 2.0).result()[1] == 2.0
    with pytest.raises(InferenceFailed, match="out of"):
        ask(runtime, 9.0).result()
    stats = runtime.snapshot("m")

    assert stats is not None
    assert (stats.requests_ok, stats.requests_error, stats.worker_restarts) == (1, 1, 0)


def test_every_type_of_tensor_goes_through(runtime: Runtime, bench: Any, models: Any) -> None:
    model, interface = models.of_many_types()
    runtime.serve(bench.release(model, interface=interface))
    inputs = [
        Tensor("a", "FP16", (2,), np.array([0.5, -2], np.float16).tobytes()),
        Tensor("b", "INT64", (2,), np.array([1 << 60, -1]).tobytes()),
        Tensor("c", "BOOL", (2,), b"\0\1"),
        Tensor("d", "BYTES", (2,), b"\x02\0\0\0\xc3\xbc\0\0\0\0"),
        Tensor("e", "UINT8", (2,), b"\0\xff"),
    ]
    answered = runtime.submit(
        "m", None, inputs, ["D", "A"], deadline=time.monotonic() + 60, encode=lambda _, i: i.outputs
    ).result()

    assert [(t.name, t.data) for t in answered] == [("D", inputs[3].data), ("A", inputs[0].data)]
    inputs[1] = Tensor("b", "INT64", (3,), bytes(24))
    with pytest.raises(BadTensors, match="'batch'"):
        runtime.submit("m", None, inputs, [], deadline=0, encode=lambda *_: None)


def test_a_stopped_model_answers_what_it_accepted_and_nothing_more(
    runtime: Runtime, bench: Any, models: Any
) -> None:
    runtime.serve(bench.release(models.affine()))
    accepted = [ask(runtime, n) for n in range(20)]
    runtime.stop("m")

    assert [future.result(60)[1] for future in accepted] == [2 * n + 1 for n in range(20)]
    with pytest.raises(ModelNotServed):
        ask(runtime)
    assert runtime.snapshot("m") is None
    wait_until(lambda: not psutil.Process().children())


def test_only_the_version_that_serves_answers(runtime: Runtime, bench: Any, models: Any) -> None:
    runtime.serve(bench.release(models.affine()))

    assert ask(runtime, version="1.0.0").result()[0] == "1.0.0"
    with pytest.raises(ModelNotServed):
        ask(runtime, version="0.9.0")


def test_draining_swaps_the_latencies_out_and_leaves_the_counters(
    runtime: Runtime, bench: Any, models: Any
) -> None:
    runtime.serve(bench.release(models.affine()))
    for _ in range(3):
        ask(runtime).result()
    (first,) = runtime.drain_window("m")
    ask(runtime).result()
    (second,) = runtime.drain_window("m")

    assert (first.latency.count, second.latency.count) == (3, 1)
    assert (first.stats.requests_ok, second.stats.requests_ok) == (3, 4)
    assert first.latency.quantile_ms(0.5) is not None
    assert runtime.drain_window("m")[0].latency.quantile_ms(0.5) is None


def _noon() -> Any:
    from datetime import UTC, datetime

    return datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def test_a_thread_that_does_not_move_is_stuck_and_a_dead_worker_is_not(
    runtime: Runtime, bench: Any, models: Any
) -> None:
    runtime.serve(bench.release(models.affine()))
    now = time.monotonic()
    os.kill(runtime.worker_pid("m"), signal.SIGKILL)

    assert runtime.stuck(now) == ()
    assert runtime.stuck(now + 3600) == ("m",)
    wait_until(lambda: runtime.ready("m"))
    runtime.stop("m")
    assert runtime.stuck(now + 3600) == ()


@pytest.mark.slow
def test_a_release_withdrawn_while_it_answers_its_last_requests_answers_no_more_of_them(
    runtime: Runtime, bench: Any, models: Any
) -> None:
    """It was switched away from, and finishes what it had accepted."""
    runtime.serve(bench.release(models.affine(), version="1.0.0"))
    first = runtime.worker_pid("m")
    os.kill(first, signal.SIGSTOP)
    accepted = [ask(runtime) for _ in range(8)]
    runtime.serve(bench.release(models.affine(), version="1.1.0"))
    assert not any(future.done() for future in accepted)
    (old, _) = runtime.drain_window("m")
    runtime.bar("m", frozenset({old.stats.digest}))
    os.kill(first, signal.SIGCONT)

    outcomes = [future.exception(120) for future in accepted]
    assert sum(isinstance(error, Refused) for error in outcomes) >= 2
    assert isinstance(outcomes[-1], Refused)
    assert ask(runtime).result()[0] == "1.1.0"
