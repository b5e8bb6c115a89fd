"""The agent's handle on one worker process: started, asked, watched, and ended when it must be.

Blocking, one request at a time. Whatever the process does (crash, hang, answer nonsense) comes out
of here as one of four errors, and after `WorkerDied` or `WorkerHung` the process is gone.
"""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mailboat_agent.serving.frames import FrameTooLarge, PeerGone, receive_frame, send_frame
from mailboat_agent.serving.spawn import how_it_ended, spawn_worker
from mailboat_agent.serving.tensors import Tensor, tensor_of_wire
from mailboat_schemas.errors import ReleaseRejected, Transient

START_SECONDS_MAX = 60  # to the worker's first word: Python and onnxruntime from a slow card
QUIT_SECONDS_MAX = 2  # a worker that is asked to go and does not is killed
STDERR_BYTES_MAX = 4096  # of what a dead worker said last, kept as evidence


class WorkerNotStarted(Transient):
    """The process did not come up: memory, processes or the runtime are missing. No verdict."""

    code = "E-WORKER-START"


class WorkerDied(Transient):
    """The process ended by itself. ``reason`` says how; ``last_words`` is the end of its stderr."""

    code = "E-WORKER-DIED"

    def __init__(self, reason: str, last_words: str) -> None:
        super().__init__(
            f"The model's worker process ended: {reason}.",
            next_step="it is started again; if it repeats, look at the release.",
        )
        self.reason = reason
        self.last_words = last_words


class WorkerHung(Transient):
    """The process did not answer in time and was killed."""

    code = "E-WORKER-HUNG"

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"The model did not answer within {seconds:.3g} s; its worker process was killed.",
            next_step="it is started again; if it repeats, look at the release.",
        )


class InferenceFailed(ReleaseRejected):
    """onnxruntime refused to load or run the model; the worker lives.

    ``kind`` is one of load_failed, run_failed, out_of_memory, protocol.
    """

    code = "E-INFERENCE"

    def __init__(self, kind: str, message: str) -> None:
        verb = "load" if kind == "load_failed" else "run"
        super().__init__(
            f"onnxruntime did not {verb} the model: {message}",
            next_step="look at the model with the same version of onnxruntime.",
        )
        self.kind = kind
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    providers: tuple[str, ...]
    threads: int
    memory_limit_bytes: int


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """What this device's onnxruntime is and can do."""

    version: str
    providers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output as onnxruntime sees it; text and None in ``shape`` are free dimensions."""

    name: str
    datatype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True)
class Description:
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    providers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inference:
    outputs: tuple[Tensor, ...]
    run_ms: float  # inside onnxruntime; the rest of what the caller waits is ours


class Worker:
    """One process. Make it with `start`; `load` once, then `infer` as often as needed."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket) -> None:
        self._process = process
        self._sock = sock
        self._lock = threading.Lock()
        self._peak_memory_bytes = 0
        self._last_words = ""
        self.facts = RuntimeFacts("", ())

    @classmethod
    def start(cls, model_fd: int, *, deadline_seconds: float = START_SECONDS_MAX) -> Self:
        """Start a process that holds the model's bytes open but has not looked at them.

        ``model_fd`` stays the caller's; it may be closed as soon as this returns.

        Raises:
            WorkerNotStarted: not the model's fault, nothing of it has been read.
        """
        try:
            process, sock = spawn_worker(model_fd)
        except OSError as error:
            raise WorkerNotStarted(
                f"No worker process could be started: {error}.",
                next_step="look at the device's memory and process limits.",
            ) from error
        worker = cls(process, sock)
        try:
            hello = worker._receive(time.monotonic() + deadline_seconds, deadline_seconds)
            worker.facts = RuntimeFacts(hello["runtime"], tuple(hello["providers"]))
        except (WorkerDied, WorkerHung, KeyError, TypeError) as error:
            worker.kill()
            raise WorkerNotStarted(
                f"The worker process did not come up: {error} {worker._last_words}".rstrip(),
                next_step="run `python -m onnxruntime` checks on the device; "
                "is the agent extra installed?",
            ) from error
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def load(self, options: WorkerOptions, *, deadline_seconds: float) -> Description:
        """Make a session of the model's bytes, under the memory limit from here on.

        Raises:
            InferenceFailed, WorkerDied, WorkerHung
        """
        answer = self._ask(
            {
                "op": "load",
                "providers": list(options.providers),
                "threads": options.threads,
                "memory_limit_bytes": options.memory_limit_bytes,
            },
            deadline_seconds,
        )
        with self._nonsense_is_death():
            return Description(
                inputs=tuple(_port(item) for item in answer["inputs"]),
                outputs=tuple(_port(item) for item in answer["outputs"]),
                providers=tuple(str(name) for name in answer["providers"]),
            )

    def infer(
        self, inputs: Sequence[Tensor], *, outputs: Sequence[str] = (), deadline_seconds: float
    ) -> Inference:
        """Run the model once. No ``outputs`` means all of them.

        Raises:
            InferenceFailed, WorkerDied, WorkerHung
        """
        request = {
            "op": "infer",
            "inputs": [tensor.to_wire() for tensor in inputs],
            "outputs": list(outputs),
        }
        answer = self._ask(request, deadline_seconds)
        with self._nonsense_is_death():
            tensors = tuple(tensor_of_wire(item) for item in answer["outputs"])
            if outputs and [tensor.name for tensor in tensors] != list(outputs):
                raise ValueError("other outputs than were asked for")
            return Inference(tensors, float(answer["run_ms"]))

    def peak_memory_bytes(self) -> int:
        """Largest resident size so far (VmHWM), read by the agent: a worker cannot lie about it."""
        if self._process.returncode is not None:
            return self._peak_memory_bytes  # reaped: its pid may be somebody else's by now
        try:
            status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        except OSError:
            return self._peak_memory_bytes  # gone; what was seen last
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                self._peak_memory_bytes = int(line.split()[1]) * 1024
        return self._peak_memory_bytes

    def cpu_seconds(self) -> float:
        """User and system time of the process so far; 0 once it is gone."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8")
        except OSError:
            return 0.0
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the process: asked first, killed if it does not listen."""
        with self._lock:
            try:
                send_frame(self._sock, {"op": "quit"}, deadline=time.monotonic() + QUIT_SECONDS_MAX)
                self._process.wait(QUIT_SECONDS_MAX)
            except (OSError, subprocess.TimeoutExpired):
                pass  # dead already, or deaf; kill() is for both
            self.kill()

    def kill(self) -> None:
        """SIGKILL to the worker and whatever it started, reaped before this returns."""
        self.peak_memory_bytes()
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._hear_last_words()
        self._sock.close()

    # --- one question, one answer ----------------------------------------------------------------

    def _ask(self, request: Mapping[str, Any], deadline_seconds: float) -> dict[str, Any]:
        with self._lock:
            deadline = time.monotonic() + deadline_seconds
            try:
                send_frame(self._sock, request, deadline=deadline)
            except TimeoutError:
                self.kill()
                raise WorkerHung(deadline_seconds) from None
            except FrameTooLarge as error:
                raise InferenceFailed("protocol", f"the inputs are too large: {error}") from error
            except OSError:
                raise self._death() from None
            answer = self._receive(deadline, deadline_seconds)
        if "error" in answer:
            raise InferenceFailed(str(answer["error"]), str(answer.get("message", "")))
        return answer

    def _receive(self, deadline: float, deadline_seconds: float) -> dict[str, Any]:
        try:
            answer = receive_frame(self._sock, deadline=deadline)
        except TimeoutError:
            self.kill()
            raise WorkerHung(deadline_seconds) from None
        except (PeerGone, OSError):
            raise self._death() from None
        except ValueError as error:
            raise self._death(f"it answered nonsense: {error}") from error
        if not isinstance(answer, dict):
            raise self._death("it answered nonsense")
        return answer

    def _death(self, reason: str = "") -> WorkerDied:
        """Bury the process and say how it ended."""
        try:
            if not reason:
                self._process.wait(QUIT_SECONDS_MAX)  # its socket closes a moment before it ends
        except subprocess.TimeoutExpired:
            reason = "it closed its socket"
        self.kill()
        return WorkerDied(reason or how_it_ended(self._process.returncode), self._last_words)

    @contextmanager
    def _nonsense_is_death(self) -> Iterator[None]:
        """A worker that breaks the protocol is not trusted with another request."""
        try:
            yield
        except (ValueError, KeyError, TypeError) as error:
            raise self._death(f"it answered nonsense: {error}") from error

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


def runtime_facts() -> RuntimeFacts:
    """Version and providers of this device's onnxruntime, asked in a process of its own.

    Raises:
        WorkerNotStarted
    """
    with Path(os.devnull).open("rb") as nothing:
        worker = Worker.start(nothing.fileno())
    worker.close()
    return worker.facts


def _port(item: Any) -> Port:
    name, datatype, shape = item
    return Port(str(name), str(datatype), tuple(shape))
