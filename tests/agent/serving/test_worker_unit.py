"""A worker that a service manager starts: real sockets, a real accept, another user."""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from mailboat_agent.serving import worker_unit
from mailboat_agent.serving.launch import Launch
from mailboat_agent.serving.process import (
    Worker,
    WorkerDied,
    WorkerHung,
    WorkerNotStarted,
    WorkerOptions,
)
from mailboat_agent.serving.requirements import worker_options
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.serving.runtime_facts import runtime_facts
from mailboat_agent.serving.spawn import environment
from mailboat_agent.serving.tensors import Tensor
from mailboat_schemas.documents.pipeline import Pipeline
from mailboat_schemas.documents.release import FileRole
from trial_bench import X_TO_Y, bundle_of, variant_of

ACTIVATE = shutil.which("systemd-socket-activate")
pytestmark = pytest.mark.skipif(ACTIVATE is None, reason="systemd-socket-activate is not installed")
CPU = WorkerOptions(providers=("CPUExecutionProvider",), threads=1, memory_limit_bytes=512 << 20)
X = Tensor("x", "FP32", (1, 4), np.array([[1, 2, 3, 4]], np.float32).tobytes())
# The unit has a user from its service manager; here, where this is root, it takes one itself.
COMMAND = [
    sys.executable,
    "-P",
    "-m",
    "mailboat_agent.serving.worker",
    "--accepted",
    "--user=65533",
]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    path = tmp_path / "worker.socket"
    log = tmp_path / "manager.log"
    manager = subprocess.Popen(
        [
            str(ACTIVATE),
            "--accept",
            f"--listen={path}",
            *(f"--setenv={name}={value}" for name, value in environment().items()),
            *COMMAND,
        ],
        stderr=log.open("wb"),
    )
    give_up = time.monotonic() + 60
    while b"Listening" not in log.read_bytes():  # the path is there a moment earlier
        assert time.monotonic() < give_up
        time.sleep(0.01)
    yield Launch(worker_socket=path)
    manager.kill()
    manager.wait()


def loaded(launch: Launch, model_fd: int) -> Worker:
    worker = Worker.start(model_fd, launch=launch)
    worker.load(CPU, deadline_seconds=20)
    return worker


def gone(pid: int, seconds: float = 60) -> bool:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_a_worker_of_its_own_unit_answers_and_is_known_by_the_kernels_word(
    launch: Launch, bench: Any, models: Any
) -> None:
    worker = loaded(launch, bench.open(models.affine()))
    (y,) = worker.infer([X], deadline_seconds=5).outputs
    status = Path(f"/proc/{worker.pid}/status").read_text(encoding="utf-8")
    peak, user = worker.peak_memory_bytes(), _layer(worker, "user")
    worker.close()

    assert np.frombuffer(y.data, np.float32).tolist() == [3, 5, 7, 9]
    assert 20 << 20 < peak < 512 << 20
    assert "NoNewPrivs:\t1" in status
    assert gone(worker.pid)
    if os.getuid() == 0:
        assert user == (True, "uid 65533, of its own unit")


def test_each_connection_gets_a_process_of_its_own(launch: Launch, bench: Any, models: Any) -> None:
    one = loaded(launch, bench.open(models.affine(2)))
    other = loaded(launch, bench.open(models.affine(3)))
    answers = [
        np.frombuffer(w.infer([X], deadline_seconds=5).outputs[0].data, np.float32)[0]
        for w in (one, other)
    ]
    one.close()
    other.close()

    assert one.pid != other.pid
    assert answers == [3, 4]


def test_a_worker_that_cannot_be_killed_is_ended_by_its_pipe(
    launch: Launch, bench: Any, models: Any
) -> None:
    worker = loaded(launch, bench.open(models.hanging()))

    with pytest.raises(WorkerHung):
        worker.infer([X], deadline_seconds=0.3)

    assert gone(worker.pid)
    assert not worker.alive


_CUTTING = """
import sys
os, fcntl, stat, errno = (sys.modules[name] for name in "os fcntl stat errno".split())
done = []

def attempt(what, *arguments):
    try:
        what(*arguments)
        done.append(what.__name__)
    except OSError:
        pass

def prepare(inputs, bundle):
    for number in range(64):
        try:
            pipe = stat.S_ISFIFO(os.fstat(number).st_mode) and number > 2
        except OSError:
            continue
        if pipe:
            attempt(fcntl.fcntl, number, fcntl.F_SETFL, 0)
            attempt(fcntl.fcntl, number, fcntl.F_SETOWN, 1)
            attempt(fcntl.ioctl, number, 0x5452, bytes(4))
            attempt(os.dup2, 0, number)
            attempt(os.close, number)
    os.closerange(3, 64)  # the socket too: the agent sees it close
    while True:
        pass
"""


@pytest.mark.slow
def test_code_of_a_release_that_cuts_its_pipe_is_ended_all_the_same(
    launch: Launch, bench: Any, models: Any
) -> None:
    files = {"own.py": (FileRole.PREPROCESS, _CUTTING.encode())}
    pipeline = Pipeline(model_interface=X_TO_Y, preprocess="prepare")
    model = models.affine()
    variant = variant_of(model, files, pipeline=pipeline)
    worker = Worker.start(bench.open(model), launch=launch)
    worker.load(
        worker_options(variant, X_TO_Y, "CPUExecutionProvider", 256 << 20),
        bundle=bundle_of(variant, files).files,
        deadline_seconds=20,
    )

    with pytest.raises((WorkerHung, WorkerDied)):
        worker.infer([X], deadline_seconds=0.5)

    ended = gone(worker.pid, seconds=20)
    if not ended:
        os.kill(worker.pid, signal.SIGKILL)
    assert ended


def test_it_dies_with_the_agent_in_the_middle_of_native_code(
    launch: Launch, bench: Any, models: Any
) -> None:
    model_fd = bench.open(models.hanging())
    agent = subprocess.Popen(
        [sys.executable, "-c", _AGENT.format(model_fd=model_fd, path=launch.worker_socket)],
        pass_fds=(model_fd,),
        stdout=subprocess.PIPE,
    )
    assert agent.stdout is not None
    worker_pid = int(agent.stdout.readline())
    time.sleep(0.3)  # it is in the loop by now
    agent.kill()
    agent.wait()
    agent.stdout.close()

    assert gone(worker_pid)


_AGENT = """
from pathlib import Path
from mailboat_agent.serving.launch import Launch
from mailboat_agent.serving.process import Worker, WorkerOptions
from mailboat_agent.serving.tensors import Tensor
worker = Worker.start({model_fd}, launch=Launch(worker_socket=Path("{path}")))
worker.load(WorkerOptions(providers=("CPUExecutionProvider",), threads=1,
            memory_limit_bytes=1 << 29), deadline_seconds=20)
print(worker.pid, flush=True)
worker.infer([Tensor("x", "FP32", (1, 4), bytes(16))], deadline_seconds=60)
"""


def test_a_worker_killed_from_outside_is_reported_dead(
    launch: Launch, bench: Any, models: Any
) -> None:
    worker = loaded(launch, bench.open(models.affine()))
    os.kill(worker.pid, signal.SIGKILL)

    with pytest.raises(WorkerDied, match="its journal says how"):
        worker.infer([X], deadline_seconds=5)
    assert not worker.alive


def test_the_runtime_is_asked_of_the_unit(launch: Launch) -> None:
    facts = runtime_facts(launch)

    missing = [layer for layer in facts.confinement if not layer.holds]
    assert facts.version
    assert missing == [] or os.getuid() != 0


def test_a_lane_serves_switches_and_recovers_with_workers_of_the_unit(
    launch: Launch, bench: Any, models: Any
) -> None:
    runtime = Runtime(clock=lambda: datetime(2026, 3, 1, tzinfo=UTC), launch=launch)
    runtime.serve(bench.release(models.affine(2), version="1.0.0"))
    first = runtime.worker_pid("m")
    os.kill(first, signal.SIGKILL)
    give_up = time.monotonic() + 60
    while runtime.worker_pid("m") == first or not runtime.ready("m"):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    runtime.serve(bench.release(models.affine(3), version="2.0.0"))
    answer = runtime.submit(
        "m", None, [X], (), deadline=time.monotonic() + 60, encode=lambda _, inference: inference
    ).result(60)
    last = runtime.worker_pid("m")
    runtime.close()

    assert np.frombuffer(answer.outputs[0].data, np.float32).tolist() == [4, 7, 10, 13]
    assert gone(last)


def test_a_socket_nobody_listens_on_is_not_the_models_fault(tmp_path: Path, bench: Any) -> None:
    with pytest.raises(WorkerNotStarted, match="No such file"):
        Worker.start(bench.open(b"x"), launch=Launch(worker_socket=tmp_path / "none"))


def test_whoever_connects_without_a_model_gets_nothing(launch: Launch) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(launch.worker_socket))
        sock.sendall(b"M")

        assert sock.recv(1) == b""


def _layer(worker: Worker, name: str) -> tuple[bool, str]:
    return next((each.holds, each.detail) for each in worker.facts.confinement if each.name == name)


def test_two_threads_that_end_a_worker_close_its_descriptors_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A drill is given up from one thread while its own sees the worker go."""
    monkeypatch.setattr(worker_unit, "KILL_SECONDS_MAX", 0.5)
    ours, theirs = socket.socketpair()
    reading, lifeline = os.pipe()
    process = worker_unit.ConnectedProcess(ours, lifeline)
    process._pidfd = os.pidfd_open(os.getpid())  # one that does not go
    first = threading.Thread(target=process.kill)
    first.start()
    select.select([reading], [], [], 30)  # the lifeline is closed
    os.dup2(reading, lifeline)  # somebody else has its number now

    second = threading.Thread(target=process.kill)
    second.start()
    first.join(60)
    second.join(60)

    assert os.fstat(lifeline)
    for descriptor in (lifeline, reading):
        os.close(descriptor)
    ours.close()
    theirs.close()
