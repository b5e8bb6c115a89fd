"""The agent's handle on one worker process: started, asked, watched, and ended when it must be.

Blocking, one request at a time. Whatever the process does (crash, hang, answer nonsense) comes out
of here as one of four errors, and after `WorkerDied` or `WorkerHung` the process is gone.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from mailboat_agent.serving.confinement import Layer
from mailboat_agent.serving.frames import FrameTooLarge, PeerGone, receive_frame, send_frame
from mailboat_agent.serving.launch import AS_CHILDREN, Launch, WorkerProcess
from mailboat_agent.serving.tensors import Tensor, tensor_of_wire
from mailboat_schemas.errors import ReleaseRejected, Transient

START_SECONDS_MAX = 60  # to the worker's first word: Python and onnxruntime from a slow card
MESSAGE_CHARS_MAX, KIND_CHARS_MAX = 1000, 32  # of what a worker says went wrong
QUIT_SECONDS_MAX = 2  # a worker that is asked to go and does not is killed


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

    ``kind`` is one of load_failed, external_data, run_failed, out_of_memory, protocol.
    """

    code = "E-INFERENCE"

    def __init__(self, kind: str, message: str) -> None:
        verb = "load" if kind in ("load_failed", "external_data") else "run"
        super().__init__(
            f"onnxruntime did not {verb} the model: {message}",
            next_step="look at the model with the same version of onnxruntime.",
        )
        self.kind = kind
        self.message = message


class ModelAltered(Transient):
    """The bytes changed between being verified and being loaded; nothing of them was loaded."""

    code = "E-MODEL-ALTERED"

    def __init__(self, message: str) -> None:
        super().__init__(
            f"The model is no longer what was verified: {message}.",
            next_step="look who can write to the data directory, and at the disk; it is verified "
            "again before the next attempt.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """``model_sha256`` is compared by the worker when the descriptor is not of sealed memory."""

    providers: tuple[str, ...]
    threads: int
    memory_limit_bytes: int
    model_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """What this device's onnxruntime is and can do, and how a worker of it is confined."""

    version: str
    providers: tuple[str, ...]
    confinement: tuple[Layer, ...] = ()


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

    def __init__(self, process: WorkerProcess, sock: socket.socket) -> None:
        self._process = process
        self._sock = sock
        self._lock = threading.Lock()
        self._peak_memory_bytes = 0
        self.facts = RuntimeFacts("", ())

    @classmethod
    def start(
        cls,
        model_fd: int,
        *,
        launch: Launch = AS_CHILDREN,
        deadline_seconds: float = START_SECONDS_MAX,
    ) -> Self:
        """Start a process that holds the model's bytes open but has not looked at them.

        ``model_fd`` stays the caller's; it may be closed as soon as this returns.

        Raises:
            WorkerNotStarted: not the model's fault, nothing of it has been read.
        """
        try:
            process, sock = launch.start(model_fd)
        except OSError as error:
            raise WorkerNotStarted(
                f"No worker process could be started: {error}.",
                next_step="look at the device's memory and process limits, and with "
                "`mailboat-agent doctor` at the worker's unit if there is one.",
            ) from error
        worker = cls(process, sock)
        try:
            worker._hear_hello(deadline_seconds)
        except (WorkerDied, WorkerHung, OSError, KeyError, TypeError, ValueError) as error:
            worker.kill()
            raise WorkerNotStarted(
                f"The worker process did not come up: {error} {process.last_words}".rstrip(),
                next_step="run `mailboat-agent doctor` on the device; "
                "is the agent extra installed?",
            ) from error
        return worker

    def _hear_hello(self, deadline_seconds: float) -> None:
        deadline = time.monotonic() + deadline_seconds
        uid = self._process.meet(deadline_seconds)
        hello = self._receive(deadline, deadline_seconds)
        layers = _layers(hello["confinement"])
        if uid is not None:  # the kernel's word counts, not the worker's
            own = Layer("user", uid not in (0, os.getuid()), f"uid {uid}, of its own unit")
            layers = tuple(own if layer.name == "user" else layer for layer in layers)
        self.facts = RuntimeFacts(hello["runtime"], tuple(hello["providers"]), layers)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.alive

    def load(self, options: WorkerOptions, *, deadline_seconds: float) -> Description:
        """Make a session of the model's bytes, under the memory limit from here on.

        Raises:
            ModelAltered, InferenceFailed, WorkerDied, WorkerHung
        """
        answer = self._ask(
            {
                "op": "load",
                "providers": list(options.providers),
                "threads": options.threads,
                "memory_limit_bytes": options.memory_limit_bytes,
                "sha256": options.model_sha256,
            },
            deadline_seconds,
        )
        with self._nonsense_is_death():
            confinement = (*self.facts.confinement, *_layers(answer["confinement"]))
            self.facts = replace(self.facts, confinement=confinement)
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
        if self._process.reaped:
            return self._peak_memory_bytes  # its pid may be somebody else's by now
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
            except OSError:
                pass  # dead already, or deaf; kill() is for both
            self.kill()

    def kill(self) -> None:
        """SIGKILL to the worker and whatever it started, gone before this returns."""
        self.peak_memory_bytes()
        self._process.kill()
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
        # What a model has broken out into may answer anything, a hundred megabytes of it too.
        message = str(answer.get("message", ""))[:MESSAGE_CHARS_MAX]
        if answer.get("error") == "altered":
            raise ModelAltered(message)
        if "error" in answer:
            raise InferenceFailed(str(answer["error"])[:KIND_CHARS_MAX], message)
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
        # Its socket closes a moment before it ends.
        if not reason and not self._process.wait(QUIT_SECONDS_MAX):
            reason = "it closed its socket"
        self.kill()
        return WorkerDied(reason or self._process.how_it_ended(), self._process.last_words)

    @contextmanager
    def _nonsense_is_death(self) -> Iterator[None]:
        """A worker that breaks the protocol is not trusted with another request."""
        try:
            yield
        except (ValueError, KeyError, TypeError) as error:
            raise self._death(f"it answered nonsense: {error}") from error


def _layers(items: Any) -> tuple[Layer, ...]:
    """What the worker said of its confinement, before it had seen a model."""
    return tuple(Layer(str(name), bool(holds), str(detail)) for name, holds, detail in items)


def _port(item: Any) -> Port:
    name, datatype, shape = item
    return Port(str(name), str(datatype), tuple(shape))
