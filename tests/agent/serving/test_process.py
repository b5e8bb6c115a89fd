import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil
import pytest

from mailboat_agent.serving import frames
from mailboat_agent.serving.process import (
    KIND_CHARS_MAX,
    MESSAGE_CHARS_MAX,
    InferenceFailed,
    Worker,
    WorkerDied,
    WorkerHung,
    WorkerNotStarted,
    WorkerOptions,
)
from mailboat_agent.serving.runtime_facts import runtime_facts
from mailboat_agent.serving.tensors import Tensor

CPU = WorkerOptions(providers=("CPUExecutionProvider",), threads=1, memory_limit_bytes=512 << 20)


def x(values: Any) -> Tensor:
    array = np.array(values, np.float32)
    return Tensor("x", "FP32", array.shape, array.tobytes())


def loaded(bench: Any, model: bytes, options: WorkerOptions = CPU) -> Worker:
    worker = Worker.start(bench.open(model))
    worker.load(options, deadline_seconds=20)
    return worker


def test_a_worker_answers_what_onnxruntime_answers_directly(bench: Any, models: Any) -> None:
    model = models.affine(0.1)
    inputs = np.random.default_rng(7).normal(size=(3, 4)).astype(np.float32)
    direct = onnxruntime.InferenceSession(model).run(["y"], {"x": inputs})[0]

    worker = loaded(bench, model)
    (y,) = worker.infer([x(inputs)], deadline_seconds=5).outputs
    worker.close()

    assert (y.name, y.datatype, y.shape) == ("y", "FP32", (3, 4))
    assert y.data == direct.tobytes()
    assert not psutil.pid_exists(worker.pid)


def test_a_killed_worker_is_reported_dead_with_its_signal(bench: Any, models: Any) -> None:
    worker = loaded(bench, models.hanging())
    threading.Timer(0.2, os.kill, (worker.pid, signal.SIGSEGV)).start()

    with pytest.raises(WorkerDied) as died:
        worker.infer([x([[1, 2, 3, 4]])], deadline_seconds=20)

    assert died.value.reason == "signal SIGSEGV"
    assert "Segmentation fault" in died.value.last_words  # faulthandler wrote the stack


def test_a_hanging_model_is_killed_at_the_deadline(bench: Any, models: Any) -> None:
    worker = loaded(bench, models.hanging())
    started = time.monotonic()

    with pytest.raises(WorkerHung):
        worker.infer([x([[1, 2, 3, 4]])], deadline_seconds=0.3)

    assert time.monotonic() - started < 20
    assert not psutil.pid_exists(worker.pid)
    with pytest.raises(WorkerDied):
        worker.infer([x([[1, 2, 3, 4]])], deadline_seconds=1)


def test_garbage_is_refused_and_the_worker_lives(bench: Any) -> None:
    worker = Worker.start(bench.open(b"not a model" * 1000))

    with pytest.raises(InferenceFailed) as failed:
        worker.load(CPU, deadline_seconds=10)

    assert failed.value.kind == "load_failed"
    assert worker.alive
    worker.close()


@pytest.mark.parametrize("location", ["etc/passwd", "/etc/passwd", "../../../etc/passwd"])
def test_a_model_reads_no_other_file(bench: Any, models: Any, location: str) -> None:
    worker = Worker.start(bench.open(models.with_external_data(location)))

    with pytest.raises(InferenceFailed) as failed:
        worker.load(CPU, deadline_seconds=10)
    worker.close()

    assert failed.value.kind == "external_data"


def limits(worker: Worker) -> dict[str, list[str]]:
    """Soft and hard, by the kernel's name."""
    lines = Path(f"/proc/{worker.pid}/limits").read_text(encoding="ascii").splitlines()[1:]
    return {line[:26].strip(): line[26:].split()[:2] for line in lines}


def test_a_loaded_worker_cannot_open_another_file(bench: Any, models: Any) -> None:
    worker = loaded(bench, models.affine())
    soft, hard = limits(worker)["Max open files"]
    worker.close()

    assert soft == hard
    assert int(soft) <= 6  # 0 to 2, its socket, the model: every number it may use is taken


def test_memory_over_the_limit_is_refused_by_the_kernel(bench: Any, models: Any) -> None:
    options = WorkerOptions(providers=CPU.providers, threads=1, memory_limit_bytes=256 << 20)
    worker = loaded(bench, models.hungry(1 << 30), options)

    with pytest.raises(InferenceFailed) as failed:
        worker.infer([x([[1, 2, 3, 4]])], deadline_seconds=20)
    peak = worker.peak_memory_bytes()
    worker.close()

    assert failed.value.kind == "out_of_memory"
    assert peak < 256 << 20


def test_a_worker_dies_with_the_agent_even_within_an_inference(bench: Any, models: Any) -> None:
    model_fd = bench.open(models.hanging())
    agent = subprocess.Popen(
        [sys.executable, "-c", _AGENT.format(model_fd=model_fd)],
        pass_fds=(model_fd,),
        stdout=subprocess.PIPE,
    )
    assert agent.stdout is not None
    worker_pid = int(agent.stdout.readline())
    time.sleep(0.2)  # it is in the loop by now
    agent.kill()
    agent.wait()
    agent.stdout.close()

    assert _gone_within(worker_pid, 3)


_AGENT = """
from mailboat_agent.serving.process import Worker, WorkerOptions
from mailboat_agent.serving.tensors import Tensor
worker = Worker.start({model_fd})
worker.load(WorkerOptions(providers=("CPUExecutionProvider",), threads=1,
            memory_limit_bytes=1 << 29), deadline_seconds=20)
print(worker.pid, flush=True)
worker.infer([Tensor("x", "FP32", (1, 4), bytes(16))], deadline_seconds=60)
"""


def test_a_worker_outlives_the_thread_that_asked_for_it(bench: Any, models: Any) -> None:
    workers: list[Worker] = []
    thread = threading.Thread(target=lambda: workers.append(loaded(bench, models.affine())))
    thread.start()
    thread.join()
    time.sleep(0.2)

    assert workers[0].alive
    workers[0].close()


def test_the_kernel_takes_a_worker_before_the_agent(bench: Any, models: Any) -> None:
    worker = loaded(bench, models.affine())
    score = Path(f"/proc/{worker.pid}/oom_score_adj").read_text(encoding="ascii")
    core = limits(worker)["Max core file size"]
    worker.close()

    assert int(score) == 1000
    assert core == ["0", "0"]


def test_a_worker_inherits_no_secrets(
    bench: Any, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILBOAT_ENROLMENT_TOKEN", "secret")
    worker = Worker.start(bench.open(models.affine()))
    try:
        environment = Path(f"/proc/{worker.pid}/environ").read_bytes()
    except PermissionError:  # it cannot be looked into, not even by its own user
        environment = b"PATH"
    finally:
        worker.close()

    assert b"PATH" in environment
    assert b"secret" not in environment


def test_the_runtime_is_known_without_a_model() -> None:
    facts = runtime_facts()

    assert facts.version == onnxruntime.__version__
    assert "CPUExecutionProvider" in facts.providers


def test_a_worker_that_never_speaks_is_not_the_models_fault(bench: Any, models: Any) -> None:
    with pytest.raises(WorkerNotStarted):
        Worker.start(bench.open(models.affine()), deadline_seconds=0.001)


def test_a_frame_over_the_bound_is_refused_before_it_is_read() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall((frames.FRAME_BYTES_MAX + 1).to_bytes(4, "big"))

    with pytest.raises(frames.FrameTooLarge):
        frames.receive_frame(ours)
    with pytest.raises(frames.FrameTooLarge):
        frames.send_frame(ours, bytes(frames.FRAME_BYTES_MAX))
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    "bomb",
    [
        [None] * (frames.LIST_VALUES_MAX + 1),
        dict.fromkeys(map(str, range(frames.LIST_VALUES_MAX + 1))),
        [[[]] * 1000 for _ in range(1000)],
    ],
)
def test_a_frame_of_too_many_values_is_nonsense(bomb: Any) -> None:
    """What a model has taken over could fill the agent's memory with it: 64 bytes for each."""
    ours, theirs = socket.socketpair()
    sender = threading.Thread(target=frames.send_frame, args=(theirs, {"outputs": bomb}))
    sender.start()
    with pytest.raises(ValueError, match=r"max_array_len|max_map_len|values"):
        frames.receive_frame(ours)
    sender.join()
    ours.close()
    theirs.close()


def test_the_agent_imports_neither_numpy_nor_onnxruntime() -> None:
    check = (
        "import sys, mailboat_agent.serving.gateway, mailboat_agent.serving.trial;"
        "sys.exit(bool({'numpy', 'onnxruntime'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def _gone_within(pid: int, seconds: float) -> bool:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_what_a_worker_says_went_wrong_is_cut(
    bench: Any, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever has taken it over shall not fill the device's log with it."""
    worker = loaded(bench, models.affine())
    flood = {"error": "x" * 5_000_000, "message": "y" * 5_000_000}
    monkeypatch.setattr(worker, "_receive", lambda *_: flood)
    with pytest.raises(InferenceFailed) as failed:
        worker.infer([x([[1, 2, 3, 4]])], deadline_seconds=5)
    monkeypatch.undo()
    worker.close()

    assert len(str(failed.value)) < 2 * MESSAGE_CHARS_MAX
    assert len(failed.value.kind) == KIND_CHARS_MAX
