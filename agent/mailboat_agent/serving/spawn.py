"""Starting a worker process: what it inherits, which thread is its parent, and how it ended."""

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

# The kernel delivers a worker's parent-death signal when the *thread* that started it ends, not the
# process. So every worker is started by this one thread, which lives as long as the agent.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="worker-spawner")

# What a worker inherits. Credentials that sit in the agent's environment stay there.
_ENVIRONMENT_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "LD_LIBRARY_PATH")


def spawn_worker(model_fd: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The process, and our end of the socket it talks on.

    Raises:
        OSError: no process, memory or descriptor to be had.
    """
    return _SPAWNER.submit(_spawn, model_fd).result()


def _spawn(model_fd: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
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
            ],
            pass_fds=(theirs.fileno(), model_fd),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # Nobody reads this pipe until the worker is dead; the worker never blocks on it.
            stderr=subprocess.PIPE,
            cwd="/",
            env=_environment(),
            start_new_session=True,  # its own process group, so that killpg reaches all of it
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return process, ours


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _ENVIRONMENT_KEPT if name in os.environ}
    # numpy only carries bytes here; its linear algebra would reserve 32 MiB for each core.
    return kept | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def how_it_ended(returncode: int) -> str:
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"signal {signal.Signals(-returncode).name}"
    except ValueError:
        return f"signal {-returncode}"
