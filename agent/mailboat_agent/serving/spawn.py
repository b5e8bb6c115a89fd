"""Starting a worker process: what it inherits, which thread is its parent, and how it ended."""

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

# The kernel delivers a worker's parent-death signal when the *thread* that started it ends, not the
# process. So every worker is started by this one thread, which lives as long as the agent.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="worker-spawner")

# What a worker inherits. Credentials that sit in the agent's environment stay there.
_ENVIRONMENT_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "LD_LIBRARY_PATH")
WORKER_ENVIRONMENT = {
    # numpy only carries bytes here; its linear algebra would reserve 32 MiB for each core.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # No thread can be started by the time a release's tokenizer runs.
    "TOKENIZERS_PARALLELISM": "false",
    # onnxruntime 1.31 begins to report its use to its makers on import. Nothing here leaves the
    # device unasked, and the thread it starts would escape what binds the first one.
    "ORT_DISABLE_TELEMETRY": "1",
}
STDERR_BYTES_MAX = 4096  # of what a dead worker said last, kept as evidence


class SpawnedProcess:
    """A child of the agent: it can be killed and reaped, and its stderr is read when it is dead."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._last_words = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    def meet(self, deadline_seconds: float) -> int | None:  # noqa: ARG002 - we know our child
        return None

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def reaped(self) -> bool:
        """From now on its pid may be somebody else's."""
        return self._process.returncode is not None

    @property
    def returncode(self) -> int | None:
        """As of `subprocess`: below zero the signal that ended it; None until it was reaped."""
        return self._process.returncode

    def wait(self, seconds_max: float) -> bool:
        """Whether it has ended within that time."""
        try:
            self._process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL to it and whatever it started; reaped before this returns."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._hear_last_words()

    def how_it_ended(self) -> str:
        return how_it_ended(self._process.returncode)

    @property
    def last_words(self) -> str:
        return self._last_words

    def _hear_last_words(self) -> None:
        stderr = self._process.stderr
        if stderr is None or stderr.closed:
            return
        os.set_blocking(stderr.fileno(), False)
        try:
            heard = os.read(stderr.fileno(), 1 << 16)
        except BlockingIOError:
            heard = b""  # a grandchild holds the other end
        self._last_words = heard[-STDERR_BYTES_MAX:].decode(errors="replace").strip()
        stderr.close()


def spawn_worker(model_fd: int, *, user: str | None) -> tuple[SpawnedProcess, socket.socket]:
    """The process, and our end of the socket it talks on. ``user`` is for an agent that is root.

    Raises:
        OSError: no process, memory or descriptor to be had.
    """
    return _SPAWNER.submit(_spawn, model_fd, user).result()


def _spawn(model_fd: int, user: str | None) -> tuple[SpawnedProcess, socket.socket]:
    ours, theirs = socket.socketpair()
    try:
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",  # never import from the directory it is started in
                "-m",
                "mailboat_agent.serving.worker",
                f"--socket-fd={theirs.fileno()}",
                f"--model-fd={model_fd}",
                f"--parent-pid={os.getpid()}",
                f"--parent-uid={os.getuid()}",
                *([] if user is None else [f"--user={user}"]),
            ],
            pass_fds=(theirs.fileno(), model_fd),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # Nobody reads this pipe until the worker is dead; the worker never blocks on it.
            stderr=subprocess.PIPE,
            cwd="/",
            env=environment(),
            start_new_session=True,  # its own process group, so that killpg reaches all of it
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return SpawnedProcess(process), ours


def environment() -> dict[str, str]:
    """What a confined child is started with."""
    kept = {name: os.environ[name] for name in _ENVIRONMENT_KEPT if name in os.environ}
    return kept | WORKER_ENVIRONMENT


def how_it_ended(returncode: int) -> str:
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"signal {signal.Signals(-returncode).name}"
    except ValueError:
        return f"signal {-returncode}"
