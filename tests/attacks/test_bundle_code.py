"""Code that a release brings along, and what it tries in its worker.

It is real code of real bundles, in real workers, as an agent that is not root starts them: under
the agent's own uid, where one layer less stands in its way. Of Python it has everything: what it
may not import it finds in ``sys.modules``.
"""

import gc
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import pytest

from attack_siege import Siege
from mailboat_agent.sealed_memory import verified_memory
from mailboat_agent.serving.bundle import open_bundle
from mailboat_agent.serving.launch import Launch
from mailboat_agent.serving.process import Worker, WorkerDied
from mailboat_agent.serving.process_usage import peak_memory_bytes
from mailboat_agent.serving.requirements import worker_options
from mailboat_agent.serving.tensors import Tensor
from mailboat_agent.serving.trial import GateFailed
from mailboat_schemas.documents.pipeline import Pipeline
from mailboat_schemas.documents.release import FileRole
from model_fleet import affine
from trial_bench import MIB, X_TO_Y, tried, variant_of
from trial_bench import golden as as_golden

SECONDS = 60.0
AS_THE_AGENT = Launch(user=None)
PIPELINE = Pipeline(model_interface=X_TO_Y, preprocess="prepare")
X = Tensor("x", "FP32", (1, 4), bytes(16))

# What the code finds without asking for it.
FOUND = """
import sys
os, errno, ctypes, socket, fcntl, resource, signal, mmap, struct, time, msgpack, stat = (
    sys.modules.get(name) for name in
    "os errno ctypes socket fcntl resource signal mmap struct time msgpack stat".split()
)
AGENT = os.getppid()
libc = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    result = getattr(libc, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result

def mapped(size, protection, flags):
    libc.mmap.restype = ctypes.c_void_p
    size, nothing = ctypes.c_size_t(size), ctypes.c_long(0)
    if libc.mmap(None, size, protection, flags, -1, nothing) == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")

def descriptors():
    for number in range(4096):  # as many as the process that started it has open
        try:
            yield number, os.fstat(number).st_mode
        except OSError:
            pass

SOCKET = next(number for number, mode in descriptors() if stat.S_ISSOCK(mode))
MODEL = next(number for number, mode in descriptors() if stat.S_ISREG(mode))
"""


def started(code: str, *, launch: Launch = AS_THE_AGENT) -> Worker:
    """A worker of the agent's with this release loaded."""
    model, files = affine(2.0), {"own.py": (FileRole.PREPROCESS, code.encode())}
    variant = variant_of(model, files, pipeline=PIPELINE)
    bundle = open_bundle(variant, lambda file: descriptor(files[file.path][1]))
    model_fd = descriptor(model)
    try:
        worker = Worker.start(model_fd, launch=launch)
    finally:
        os.close(model_fd)
    options = worker_options(variant, X_TO_Y, "CPUExecutionProvider", 256 * MIB)
    try:
        worker.load(options, bundle=bundle.files, deadline_seconds=SECONDS)
    except BaseException:
        worker.kill()
        raise
    return worker


def descriptor(content: bytes) -> int:
    return verified_memory([content], hashlib.sha256(content).hexdigest())


ATTEMPTS: dict[str, tuple[str, ...]] = {
    "the network and the front": (
        "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
        "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_UNIX)",
        "socket.socketpair()",
        "call('connect', SOCKET, b'', 0)",
    ),
    "files": (
        "open('/tmp/mailboat-attack', 'w')",
        "os.mkdir('/dev/shm/mailboat-attack')",
        "os.unlink('/etc/hostname')",
        "os.open(f'/proc/self/fd/{MODEL}', os.O_RDWR)",
        "os.pwrite(MODEL, b'x', 0)",
        "call('memfd_create', b'x', 0)",
        "call('syscall', SYNC)",
    ),
    "the agent": (
        "os.kill(AGENT, 0)",
        "os.killpg(os.getpgid(AGENT), 0)",
        "call('tgkill', AGENT, AGENT, 0)",
        "os.pidfd_open(AGENT)",
        # A socket may send a signal to its owner, SIGKILL too, at the next byte that comes.
        "fcntl.fcntl(SOCKET, fcntl.F_SETOWN, AGENT)",
        "fcntl.fcntl(SOCKET, 10, signal.SIGKILL)",
        "call('fcntl', SOCKET, 15, struct.pack('2i', 1, AGENT))",
        "fcntl.ioctl(SOCKET, 0x8901, struct.pack('i', AGENT))",
        "fcntl.fcntl(MODEL, fcntl.F_SETLEASE, fcntl.F_RDLCK)",
        "resource.prlimit(AGENT, resource.RLIMIT_NOFILE, (1, 1))",
        "os.setpriority(os.PRIO_PROCESS, AGENT, 19)",
        "open(f'/proc/{AGENT}/mem', 'rb')",
        "call('process_vm_readv', AGENT, 0, 0, 0, 0, 0)",
    ),
    "memory": (
        "mapped(1 << 33, 3, 0x22)",
        "mapped(1 << 20, 3, 0x21)",  # shared by nobody
        "mapped(1 << 20, 3, 0x122)",  # a stack
        "mapped(1 << 40, 1, 0x4022)",  # only read: the kernel's tables for it are 2 GiB
        "resource.setrlimit(resource.RLIMIT_DATA, (1 << 40, 1 << 40))",
        "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    ),
    "threads and processes": (
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "call('vfork')",
        "sys.modules['_thread'].start_new_thread(int, ())",
    ),
    "the kernel's memory": (
        "call('shmget', 0, 4096, 0o1600)",
        "call('msgget', 0, 0o1600)",
        "call('semget', 0, 1, 0o1600)",
        "call('mq_open', b'/mailboat', 0o102, 0o600, None)",
        "call('syscall', KEYCTL, 0, 0, 0)",
    ),
    "descriptors": (
        "[os.dup(0) for _ in range(5)]",
        "os.pipe()",
        "os.eventfd(0)",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))",
        "os.close(0); open('/etc/passwd')",  # a number is free now
    ),
}
TRYING = """
import numpy as np
INTEL = os.uname().machine == "x86_64"
SYNC, KEYCTL = (162, 250) if INTEL else (81, 219)

def came_of(attempt):
    try:
        exec(attempt, globals())
    except OSError as error:
        return errno.errorcode[error.errno]
    except (RuntimeError, ValueError):  # what _thread and resource make of EPERM
        return "EPERM"
    return "done"

def prepare(inputs, bundle):
    text = " ".join(map(came_of, ATTEMPTS)).encode().ljust(800)
    return {"x": np.frombuffer(text, "u1").reshape(200, 4).astype("f4")}
"""


def outcomes(attempts: tuple[str, ...]) -> dict[str, str]:
    """What came of each: the name of an error, or ``done``."""
    worker = started(f"{FOUND}ATTEMPTS = {attempts!r}\n{TRYING}")
    try:
        answer = worker.infer([X], deadline_seconds=SECONDS).outputs[0]
    finally:
        worker.kill()
    told = bytes(int((value - 1) / 2) for value in answer.values())  # the model is 2 x + 1
    return dict(zip(attempts, told.decode().split(), strict=True))


@cache
def all_outcomes() -> dict[str, str]:
    """In one worker, which costs most of a second."""
    return outcomes(sum(ATTEMPTS.values(), ()))


REFUSED = {"EPERM", "EACCES", "EMFILE", "ENOSYS", "ENOMEM", "ESRCH", "EFBIG"}


def succeeded(at: str) -> dict[str, str]:
    """Nothing, one hopes."""
    came = {attempt: all_outcomes()[attempt] for attempt in ATTEMPTS[at]}
    return {attempt: what for attempt, what in came.items() if what not in REFUSED}


# --- reaching out, taking too much, leaving something behind --------------------------------------


@pytest.mark.slow
async def test_code_of_a_bundle_that_reads_what_belongs_to_other_releases(siege: Siege) -> None:
    store = siege.directory / "data"
    files = [str(path) for path in store.rglob("*") if path.is_file()]
    assert files

    came = outcomes(
        (f"os.listdir({str(store)!r})", *(f"open({path!r}, 'rb').read(1)" for path in files))
    )

    assert set(came.values()) <= REFUSED, came
    await siege.assert_serves()


def test_code_of_a_bundle_that_talks_to_the_network_or_the_front() -> None:
    assert succeeded("the network and the front") == {}


def test_code_of_a_bundle_that_writes() -> None:
    assert succeeded("files") == {}


def test_code_of_a_bundle_that_reaches_for_the_agent() -> None:
    assert succeeded("the agent") == {}


def test_code_of_a_bundle_that_takes_memory_where_no_limit_counts_it() -> None:
    assert succeeded("memory") == {}


def test_code_of_a_bundle_that_starts_threads_and_processes() -> None:
    assert succeeded("threads and processes") == {}


def test_code_of_a_bundle_that_takes_every_descriptor() -> None:
    assert succeeded("descriptors") == {}


def test_code_of_a_bundle_that_leaves_something_in_the_kernel() -> None:
    assert succeeded("the kernel's memory") == {}


# --- living on -----------------------------------------------------------------------------------

_AGENT = """
import sys, time
sys.path[:0] = {paths!r}
import test_bundle_code as attacks
worker = attacks.started({code!r})
print(worker.pid, flush=True)
try:
    worker.infer([attacks.X], deadline_seconds=600)
except BaseException as error:
    print(error, flush=True)
"""
OUTLIVING = f"""{FOUND}
def prepare(inputs, bundle):
    for attempt in (lambda: call('prctl', 1, 0, 0, 0, 0), os.setsid):
        try:
            attempt()
        except OSError:
            pass
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    os.write(2, b'deaf')
    while True:
        pass
"""


@pytest.mark.slow
def test_code_of_a_bundle_that_would_outlive_the_agent() -> None:
    """The agent is killed while the worker computes, deaf to everything."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]
    agent = subprocess.Popen(
        [sys.executable, "-c", _AGENT.format(paths=paths, code=OUTLIVING)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert agent.stdout is not None
    worker = psutil.Process(int(agent.stdout.readline()))
    deadline = time.monotonic() + SECONDS
    while not _is_deaf(worker.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _is_deaf(worker.pid)

    agent.kill()
    agent.wait(SECONDS)
    agent.stdout.close()

    gone, alive = psutil.wait_procs([worker], timeout=SECONDS)
    for each in alive:
        each.kill()
    assert gone == [worker]


def _is_deaf(pid: int) -> bool:
    """To SIGTERM. Source: proc_pid_status(5)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    ignored = next(line for line in status.splitlines() if line.startswith("SigIgn:"))
    return bool(int(ignored.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


# --- lying to the agent --------------------------------------------------------------------------

BOMBS = {
    "sixty million empty lists": "b'\\xdd' + struct.pack('>I', SIZE - 5) + b'\\x90' * (SIZE - 5)",
    "a list that says it has four billion": "b'\\xdd\\xff\\xff\\xff\\xff'",
    "one place in the shared memory, four thousand times": "msgpack.packb("
    "{'outputs': [['y', 'UINT8', [PLACE], [0, PLACE]]] * 4000, 'run_ms': 1.0})",
    "thirty million elements of text": "msgpack.packb({'outputs': [["
    "'y', 'BYTES', [SIZE // 5], b'\\x01\\0\\0\\0x' * (SIZE // 5)]], 'run_ms': 1.0})",
    "not a message": "b'\\xc1' * 100",
}
FORGING = """
PLACE = 1 << 20
def send(content):
    content, at = struct.pack('>I', len(content)) + content, 0
    os.set_blocking(SOCKET, True)
    while at < len(content):
        at += os.write(SOCKET, content[at : at + (1 << 20)])

asked = []
def prepare(inputs, bundle):
    asked.append(1)
    if len(asked) > 2:  # by then there is memory that both see
        send(BOMB)
    return {'x': inputs['x']}
"""


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS)
def test_code_of_a_bundle_that_answers_with_a_bomb(bomb: str) -> None:
    """It writes to the agent's socket itself."""
    setup = f"SIZE = 60 << 20\n{FORGING}\nBOMB = {BOMBS[bomb]}\n"
    worker = started(FOUND + setup)
    large = Tensor("x", "FP32", (20_000, 4), bytes(320_000))
    for _ in range(2):
        worker.infer([large], deadline_seconds=SECONDS)
    gc.collect()
    before = psutil.Process().memory_info().rss

    with _peak() as peak, pytest.raises(WorkerDied, match="nonsense"):
        worker.infer([large], deadline_seconds=SECONDS)

    assert not worker.alive
    assert peak() - before < 200 * MIB  # a frame of 64 MiB, and once more while it is read


@contextmanager
def _peak() -> Iterator[Callable[[], int]]:
    """The largest resident size of this process from here on. Source: proc_pid_clear_refs(5)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    yield lambda: peak_memory_bytes(os.getpid())


FORGED = {
    "the answer to the next question": "{'outputs': [], 'run_ms': 0.0}",
    "that it was loaded": "{'inputs': [], 'outputs': [], 'providers': [], 'confinement': []}",
    "that its own check has passed": "{'exit_code': 0, 'stdout': '', 'raised': ''}",
    "another output than is declared": "{'run_ms': 0.0, 'outputs': "
    "[['z', 'FP32', [1, 4], bytes(16)]]}",
    "a place beside the shared memory": "{'run_ms': 0.0, 'outputs': "
    "[['y', 'FP32', [1, 4], [1 << 40, 16]]]}",
}


@pytest.mark.slow
@pytest.mark.parametrize("forged", FORGED)
def test_code_of_a_bundle_that_forges_its_verdict(forged: str) -> None:
    """A message too many, before the one that is due: from then on nothing fits any more."""
    code = f"{FOUND}{FORGING}\nBOMB = msgpack.packb({FORGED[forged]})\n"
    samples = np.zeros((4, 1, 4), np.float32)

    with pytest.raises(GateFailed) as failed:
        tried(
            affine(2.0),
            as_golden(in_x=samples, out_y=samples),
            files={"own.py": (FileRole.PREPROCESS, code.encode())},
            pipeline=PIPELINE,
        )

    assert failed.value.reason == "crashed"


@pytest.mark.slow
def test_code_of_a_bundle_that_vouches_for_itself() -> None:
    """What is measured is measured by the agent, in the check's own worker too."""
    samples = np.zeros((1, 1, 4), np.float32)
    check = b"import numpy as np\nheld = np.ones(24 << 20)\nprint('{\"measures\": {}}')\n"

    with pytest.raises(GateFailed) as failed:
        tried(
            affine(2.0),
            as_golden(in_x=samples, out_y=samples + 1),
            files={"check.py": (FileRole.CHECK, check)},
            peak_memory=160 * MIB,
        )

    assert failed.value.reason == "memory_exceeded"
