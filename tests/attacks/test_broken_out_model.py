"""A model has broken out of onnxruntime: its code runs in the worker, and what it tries there.

The worker is the agent's own, started as it always is; what stands in for the bug in onnxruntime is
a session that runs Python instead of a graph.
"""

import hashlib
import json
import os
from pathlib import Path

import pytest

from attack_siege import Siege
from mailboat_agent.sealed_memory import verified_memory
from mailboat_agent.serving.process import InferenceFailed, Worker, WorkerOptions
from model_fleet import affine

_BREAKOUT = """
import os
AGENT, DEVICE = os.getppid(), {device!r}

def break_out():
    # Now: once it is confined, the worker can import nothing.
    import ctypes, errno, json, onnxruntime, socket
    class Session(onnxruntime.InferenceSession):
        def run(self, *_):
            libc, found = ctypes.CDLL(None, use_errno=True), []
            def call(name, *arguments):
                if getattr(libc, name)(*arguments) < 0:
                    raise OSError(ctypes.get_errno(), name)
            names = dict(os=os, socket=socket, call=call, AGENT=AGENT, DEVICE=DEVICE)
            for attempt in json.loads({attempts!r}):
                try:
                    exec(attempt, dict(names))
                except OSError as error:
                    found.append(errno.errorcode[error.errno])
                else:
                    found.append("done")
            raise RuntimeError(json.dumps(found))
    onnxruntime.InferenceSession = Session

if os.environ.get("ORT_DISABLE_TELEMETRY"):  # a worker, not the agent
    break_out()
"""


@pytest.fixture
def device(siege: Siege) -> Path:
    """The directory of a device that serves, with its key in it."""
    (siege.directory / "device.key").write_text("secret")
    return siege.directory


def outcomes(device: Path, monkeypatch: pytest.MonkeyPatch, *attempts: str) -> dict[str, str]:
    """What came of each: a name of an error, or ``done``."""
    customs = device / "customs"
    customs.mkdir()
    code = _BREAKOUT.format(device=str(device), attempts=json.dumps(attempts))
    (customs / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(customs))
    model = affine(2.0)
    descriptor = verified_memory([model], hashlib.sha256(model).hexdigest())
    worker = Worker.start(descriptor)
    try:
        worker.load(
            WorkerOptions(
                providers=("CPUExecutionProvider",), threads=1, memory_limit_bytes=512 << 20
            ),
            deadline_seconds=20,
        )
        with pytest.raises(InferenceFailed) as said:
            worker.infer([], deadline_seconds=20)
    finally:
        worker.kill()
        os.close(descriptor)
    found: list[str] = json.loads(said.value.message.partition(": ")[2])
    return dict(zip(attempts, found, strict=True))


REFUSED = {"EPERM", "EACCES", "EMFILE", "ENOSYS", "ESRCH"}


async def test_code_of_a_model_that_reads_and_writes_files(
    siege: Siege, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = outcomes(
        device,
        monkeypatch,
        "open(DEVICE + '/device.key').read()",
        "open(DEVICE + '/data/state.json', 'w')",
        "open('/etc/passwd').read()",
        "os.listdir(DEVICE + '/data/store')",
        "os.unlink(DEVICE + '/device.key')",
        "os.mkdir('/tmp/mailboat-attack')",
        "os.chmod(DEVICE + '/device.key', 0o777)",
    )
    assert set(found.values()) <= REFUSED, found
    await siege.assert_serves()


@pytest.mark.slow
async def test_code_of_a_model_that_talks_to_the_network(
    siege: Siege, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = outcomes(
        device,
        monkeypatch,
        "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_UNIX)",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    )
    assert set(found.values()) <= REFUSED, found
    await siege.assert_serves()


@pytest.mark.slow
async def test_code_of_a_model_that_reaches_for_other_processes(
    siege: Siege, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = outcomes(
        device,
        monkeypatch,
        "os.kill(AGENT, 0)",
        "os.pidfd_open(AGENT)",
        "open(f'/proc/{AGENT}/environ').read()",
        "call('ptrace', 16, AGENT, 0, 0)",
        "call('process_vm_readv', AGENT, 0, 0, 0, 0, 0)",
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "os.setuid(0)",
    )
    assert set(found.values()) <= REFUSED, found
    await siege.assert_serves()
