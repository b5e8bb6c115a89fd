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
from dataclasses import replace
from typing import Any, Self

from mailboat_agent.serving.bundle import BundleFile
from mailboat_agent.serving.confinement import Layer
from mailboat_agent.serving.frames import FrameTooLarge, PeerGone, receive_frame, send_frame
from mailboat_agent.serving.launch import AS_CHILDREN, Launch, WorkerProcess
from mailboat_agent.serving.priority import make_way
from mailboat_agent.serving.process_usage import memory_bytes, peak_memory_bytes
from mailboat_agent.serving.shared_tensors import JoinedTensor, Region, SharedTensors
from mailboat_agent.serving.tensors import Tensor
from mailboat_agent.serving.worker_errors import (
    InferenceFailed,
    ModelAltered,
    WorkerDied,
    WorkerHung,
    WorkerNotStarted,
)
from mailboat_agent.serving.worker_values import (
    CHECK_OUTPUT_CHARS_MAX,
    CheckAnswer,
    Description,
    Inference,
    Port,
    RuntimeFacts,
    WorkerOptions,
    description_of_wire,
    layers_of_wire,
)

START_SECONDS_MAX = 60  # to the worker's first word: Python and onnxruntime from a slow card
MESSAGE_CHARS_MAX, KIND_CHARS_MAX = 1000, 32  # of what a worker says went wrong
BEGUN_MAX = 2  # one that runs and one that follows at once
SECOND_BYTES_MAX = 64 << 10  # fits in the socket's buffer, whatever the worker does
QUIT_SECONDS_MAX = 2  # a worker that is asked to go and does not is killed


__all__ = [
    "Description",
    "Inference",
    "InferenceFailed",
    "ModelAltered",
    "Port",
    "RuntimeFacts",
    "Worker",
    "WorkerDied",
    "WorkerHung",
    "WorkerNotStarted",
    "WorkerOptions",
]


class Worker:
    """One process. Make it with `start`; `load` once, then `infer` as often as needed."""

    def __init__(self, process: WorkerProcess, sock: socket.socket) -> None:
        self._process = process
        self._sock = sock
        self._lock = threading.RLock()  # one question at a time
        self._shared = SharedTensors()
        self._begun = 0  # whose answers have not been taken
        self._peak_memory_bytes = 0
        self._output_names: tuple[str, ...] = ()  # of an answer to who asks for all of them
        self.facts = RuntimeFacts("", ())

    @classmethod
    def start(
        cls,
        model_fd: int,
        *,
        launch: Launch = AS_CHILDREN,
        deadline_seconds: float = START_SECONDS_MAX,
        makes_way: bool = False,
    ) -> Self:
        """Start a process that holds the model's bytes open but has not looked at them.

        ``model_fd`` stays the caller's; it may be closed as soon as this returns. One that
        ``makes_way`` does so until `be_equal`.

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
        if makes_way:
            make_way(process.pid)
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
        layers = layers_of_wire(hello["confinement"])
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

    def load(
        self,
        options: WorkerOptions,
        *,
        bundle: Sequence[BundleFile] = (),
        deadline_seconds: float,
    ) -> Description:
        """Make a session of the model's bytes, under the memory limit from here on.

        ``bundle`` is handed over before: what the release's own code needs, and the code.

        Raises:
            ModelAltered, InferenceFailed, WorkerDied, WorkerHung
        """
        for file in bundle:
            self._ask({"op": "attach", **file.described()}, deadline_seconds, file)
        answer = self._ask({"op": "load", **options.to_wire()}, deadline_seconds)
        with self._nonsense_is_death():
            confinement = (*self.facts.confinement, *layers_of_wire(answer["confinement"]))
            self.facts = replace(self.facts, confinement=confinement)
            described = description_of_wire(answer)
        own = described if options.pipeline is None else options.pipeline
        self._output_names = tuple(port.name for port in own.outputs)
        return described

    def check(self, question: str, *, deadline_seconds: float) -> CheckAnswer:
        """Run the release's own check. A worker that has run one is of no further use.

        Raises:
            InferenceFailed, WorkerDied, WorkerHung
        """
        answer = self._ask({"op": "check", "question": question}, deadline_seconds)
        with self._nonsense_is_death():
            return CheckAnswer(
                exit_code=int(answer["exit_code"]),
                stdout=str(answer["stdout"])[:CHECK_OUTPUT_CHARS_MAX],
                raised=str(answer["raised"])[:MESSAGE_CHARS_MAX],
            )

    def infer(
        self,
        inputs: Sequence[Tensor | JoinedTensor],
        *,
        outputs: Sequence[str] = (),
        deadline_seconds: float,
    ) -> Inference:
        """Run the model once. No ``outputs`` means all of them.

        Raises:
            InferenceFailed, WorkerDied, WorkerHung
        """
        with self._lock:
            self.begin(inputs, outputs=outputs, deadline_seconds=deadline_seconds)
            return self.finish(outputs=outputs, deadline_seconds=deadline_seconds)

    def begin(
        self,
        inputs: Sequence[Tensor | JoinedTensor],
        *,
        outputs: Sequence[str] = (),
        deadline_seconds: float,
    ) -> None:
        """Have the worker begin; `finish` has its answer. One more may wait for it, `if_it_fits`.

        Raises:
            InferenceFailed, WorkerDied, WorkerHung
        """
        with self._lock:
            if not self._begun:
                for name, size_bytes in self._shared.lacking(inputs).items():
                    self._share(name, size_bytes, deadline_seconds)
            slot, wire = self._shared.put(inputs)
            request = {"op": "infer", "slot": slot, "inputs": wire, "outputs": list(outputs)}
            self._send(request, time.monotonic() + deadline_seconds, deadline_seconds)
            self._shared.note_sent()
            self._begun += 1

    def if_it_fits(self, inputs: Sequence[Tensor | JoinedTensor]) -> bool:
        """Whether `begin` takes a second one now, without anybody waiting for anybody."""
        return self._begun < BEGUN_MAX and self._shared.frame_bytes(inputs) <= SECOND_BYTES_MAX

    def finish(self, *, outputs: Sequence[str] = (), deadline_seconds: float) -> Inference:
        """The answer to the oldest that was begun.

        Raises:
            InferenceFailed, WorkerDied, WorkerHung
        """
        with self._lock:
            self._begun -= 1
            slot = self._shared.next_answered()
            answer = self._answer(time.monotonic() + deadline_seconds, deadline_seconds)
            with self._nonsense_is_death():
                tensors = self._shared.take(slot, answer)
                if tuple(tensor.name for tensor in tensors) != (
                    tuple(outputs) or self._output_names
                ):
                    raise ValueError("other outputs than were asked for")
                return Inference(tensors, float(answer["run_ms"]))

    def _share(self, name: str, size_bytes: int, deadline_seconds: float) -> None:
        """Have memory in common with the worker, or do without it."""
        self._shared.forget(name)
        try:
            region = Region(size_bytes)
        except OSError:
            self._shared.give_up()
            return
        try:
            self._ask({"op": "share", "name": name, "bytes": size_bytes}, deadline_seconds, region)
            self._shared.hold(name, region)
        except InferenceFailed:
            self._shared.give_up()
        finally:
            region.close_descriptor()

    def peak_memory_bytes(self) -> int:
        """Largest resident size so far (VmHWM), read by the agent: a worker cannot lie about it."""
        if not self._process.reaped:  # else its pid may be somebody else's by now
            self._peak_memory_bytes = max(self._peak_memory_bytes, peak_memory_bytes(self.pid))
        return self._peak_memory_bytes

    def memory_bytes(self) -> int:
        """Resident size now, less what is shared; 0 once it is gone."""
        return 0 if self._process.reaped else memory_bytes(self.pid)

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
        self._shared.close()

    # --- one question, one answer ----------------------------------------------------------------

    def _ask(
        self,
        request: Mapping[str, Any],
        deadline_seconds: float,
        region: Region | BundleFile | None = None,
    ) -> dict[str, Any]:
        with self._lock:
            deadline = time.monotonic() + deadline_seconds
            self._send(request, deadline, deadline_seconds, region)
            return self._answer(deadline, deadline_seconds)

    def _send(
        self,
        request: Mapping[str, Any],
        deadline: float,
        deadline_seconds: float,
        region: Region | BundleFile | None = None,
    ) -> None:
        try:
            send_frame(self._sock, request, deadline=deadline)
            if region is not None:
                region.send(self._sock)
        except TimeoutError:
            self.kill()
            raise WorkerHung(deadline_seconds) from None
        except FrameTooLarge as error:
            raise InferenceFailed("protocol", f"the inputs are too large: {error}") from error
        except OSError:
            raise self._death() from None

    def _answer(self, deadline: float, deadline_seconds: float) -> dict[str, Any]:
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
