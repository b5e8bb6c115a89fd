"""The worker process: one model, one session, and nothing that the agent could not do without.

Started by `spawn` as ``python -m mailboat_agent.serving.worker``, or as a unit of its own; the only
module of the agent that imports onnxruntime and numpy. It answers frames on its socket until the
socket closes. The model arrives as an open file descriptor of verified bytes and is handed to
onnxruntime as bytes, never as a path, after this process has given up what it can (`confinement`).
"""

import argparse
import faulthandler
import hashlib
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mailboat_agent.sealed_memory import is_sealed
from mailboat_agent.serving import confinement
from mailboat_agent.serving.confinement import Layer
from mailboat_agent.serving.external_data import refers_to_other_files
from mailboat_agent.serving.frames import (
    FRAME_BYTES_MAX,
    FrameTooLarge,
    PeerGone,
    receive_frame,
    send_frame,
)
from mailboat_agent.serving.opsets import KNOWN_EVERYWHERE, STANDARD, declared_opsets, too_new
from mailboat_agent.serving.received_bundle import ReceivedBundle, import_what_code_needs
from mailboat_agent.serving.request_failed import RequestFailed
from mailboat_agent.serving.shared_tensors import SharedByAgent
from mailboat_agent.serving.smallest_model import SMALLEST_MODEL
from mailboat_agent.serving.worker_unit import accepted_connection

if TYPE_CHECKING:
    from mailboat_agent.serving.arrays import Array

MODEL_BYTES_MAX = 0x7FFFF000  # one read(2); protobuf itself ends at 2 GiB
MESSAGE_CHARS_MAX = 1000
OUTPUT_BYTES_MAX = FRAME_BYTES_MAX - (1 << 20)  # leaves room for names and shapes

# What onnxruntime says, in words only, when the memory limit is reached.
_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate memory", "Unable to allocate")

_OIP_OF_ONNX = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class Session:
    """One loaded model, with the release's own code around it if there is any."""

    def __init__(self, model: bytes, request: dict[str, Any], bundle: ReceivedBundle) -> None:
        """Gives up the rest once the model stands and before any of the release's code runs."""
        import onnxruntime

        options = _quiet_options(request["threads"])
        # Threads that spin for work burn a core of a device that mostly waits.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._ort = onnxruntime.InferenceSession(
            model, sess_options=options, providers=request["providers"]
        )
        wanted, got = request["providers"][0], self._ort.get_providers()[0]
        if got != wanted:  # onnxruntime takes another one without a word
            raise RequestFailed("provider_failed", f"{wanted} did not come up, {got} did")
        self.layers = confinement.before_its_code(opens_files=_opens_files(request))
        self.output_names = [output.name for output in self._ort.get_outputs()]
        self._pipeline = bundle.pipeline(
            request["pipeline"],
            model_inputs=[_described(node) for node in self._ort.get_inputs()],
            model_outputs=self.output_names,
        )
        if self._pipeline is not None:
            self.output_names = self._pipeline.output_names

    def describe(self) -> dict[str, Any]:
        metadata = self._ort.get_modelmeta()
        return {
            "inputs": [_described(node) for node in self._ort.get_inputs()],
            "outputs": [_described(node) for node in self._ort.get_outputs()],
            "providers": self._ort.get_providers(),
            "producer": metadata.producer_name[:128],
        }

    def run(self, names: Sequence[str], feeds: "Mapping[str, Array]") -> list[Any]:
        """What the release answers to these inputs: its outputs in the order of ``names``.

        The inputs may lie in memory that the next request overwrites.
        """
        if self._pipeline is not None:
            return self._pipeline.run(names, feeds, self._ort.run)
        results: list[Any] = self._ort.run(names, feeds)
        return results

    def infer(self, request: dict[str, Any], shared: SharedByAgent) -> dict[str, Any]:
        from mailboat_agent.serving.arrays import NotATensor, array_of_wire, wire_of_array

        shared.begin_answer(request["slot"])
        feeds = {item[0]: array_of_wire(item, shared) for item in request["inputs"]}
        names = request["outputs"] or self.output_names
        started = time.perf_counter()
        results = self.run(names, feeds)
        run_ms = (time.perf_counter() - started) * 1000
        if sum(getattr(result, "nbytes", 0) for result in results) > OUTPUT_BYTES_MAX:
            raise RequestFailed("run_failed", f"the outputs are over {OUTPUT_BYTES_MAX} bytes")
        try:
            outputs = [
                wire_of_array(name, result, shared)
                for name, result in zip(names, results, strict=True)
            ]
        except NotATensor as error:
            raise RequestFailed("run_failed", str(error)) from error
        return {"outputs": outputs, "run_ms": run_ms, "output_bytes": shared.output_bytes}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--accepted", action="store_true", help="started by the service manager")
    parser.add_argument("--socket-fd", type=int)
    parser.add_argument("--model-fd", type=int)
    parser.add_argument("--parent-pid", type=int)
    parser.add_argument("--parent-uid", type=int)
    parser.add_argument("--user", help="whom to become if this is root")
    arguments = parser.parse_args()
    os.set_blocking(2, False)  # the agent reads stderr only once this process is dead
    faulthandler.enable()  # a crash leaves its stack on stderr, which the agent keeps as evidence
    lifeline: int | None = None
    if arguments.accepted:
        sock, model_fd, lifeline = accepted_connection()
    else:
        _die_with(arguments.parent_pid)
        sock, model_fd = socket.socket(fileno=arguments.socket_fd), arguments.model_fd
    try:
        hello = _hello()  # imports: the last time that this process reads a file of its own accord
        layers = confinement.at_start(user=arguments.user, parent_uid=arguments.parent_uid)
        if arguments.parent_pid is not None:
            _die_with(arguments.parent_pid)  # a change of user has taken it back
        send_frame(sock, hello | {"confinement": _wire(layers)})
        _serve(sock, model_fd, lifeline)
    except PeerGone:
        return  # the agent closed the worker, or is gone itself


def _serve(sock: socket.socket, model_fd: int, lifeline: int | None) -> None:
    session: Session | None = None
    bundle = ReceivedBundle()
    shared = SharedByAgent(sock)
    while True:
        request = receive_frame(sock)
        if request["op"] == "quit":
            os._exit(0)  # nothing to save; taking the interpreter down in order costs 60 ms
        try:
            if request["op"] == "load":
                session, layers = _load(model_fd, lifeline, request, bundle)
                answer = session.describe() | {"confinement": _wire(layers)}
            elif request["op"] == "share":
                answer = {}
                shared.receive(request["name"], request["bytes"])
            elif request["op"] == "attach" and session is None:
                answer = {}
                bundle.take(sock, request)
            elif request["op"] == "check" and session is not None:
                answer = bundle.check(request["question"], session.run, session.output_names)
            else:
                answer = _infer(session, request, shared)
        except RequestFailed as error:
            answer = {"error": error.kind, "message": str(error)[:MESSAGE_CHARS_MAX]}
        except Exception as error:  # noqa: BLE001 - whatever a model makes onnxruntime raise
            answer = _failure("load_failed" if session is None else "run_failed", error)
        try:
            send_frame(sock, answer)
        except FrameTooLarge as error:  # long strings: their size shows only once they are packed
            send_frame(sock, {"error": "run_failed", "message": f"the outputs: {error}"})


def _infer(
    session: Session | None, request: dict[str, Any], shared: SharedByAgent
) -> dict[str, Any]:
    if session is None or request["op"] != "infer":
        raise RequestFailed("protocol", f"{request['op']!r} is not possible now")
    return session.infer(request, shared)


def _load(
    model_fd: int, lifeline: int | None, request: dict[str, Any], bundle: ReceivedBundle
) -> tuple[Session, list[Layer]]:
    size = os.fstat(model_fd).st_size
    if size > MODEL_BYTES_MAX:
        raise RequestFailed("load_failed", f"a model of {size} bytes is over {MODEL_BYTES_MAX}")
    layers = confinement.before_the_model(
        opens_files=_opens_files(request),
        memory_limit_bytes=request["memory_limit_bytes"],
        lifeline=lifeline,
    )
    model = os.pread(model_fd, size, 0)
    if len(model) != size:
        raise RequestFailed("load_failed", f"read {len(model)} of {size} bytes")
    if request["sha256"] is not None and not is_sealed(model_fd):
        actual = hashlib.sha256(model).hexdigest()  # of the very bytes that are loaded next
        if actual != request["sha256"]:
            raise RequestFailed("altered", f"its sha256 is {actual}, not {request['sha256']}")
    _refuse_unreadable(model)
    session = Session(model, request, bundle)
    return session, [*layers, *session.layers]


def _opens_files(request: Mapping[str, Any]) -> bool:
    """Other providers open device files. This one needs none, so the model gets none."""
    return bool(request["providers"] != ["CPUExecutionProvider"])


def _refuse_unreadable(model: bytes) -> None:
    """What can be said of a model before onnxruntime sees it, and in better words."""
    try:
        external = refers_to_other_files(model)
        declared = declared_opsets(model)
        recent = too_new(declared, KNOWN_EVERYWHERE)
        newer = recent and too_new(declared, _known_opsets())
    except ValueError as error:
        raise RequestFailed("load_failed", f"not an ONNX model: {error}") from error
    if external:
        raise RequestFailed(
            "external_data", "it keeps values in another file; a release's model is one file"
        )
    if newer:
        raise RequestFailed("opset_too_new", newer)


def _known_opsets() -> dict[str, int]:
    """The highest version of each standard operator set that has an operator here; {} if the
    runtime does not tell."""
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    highest: dict[str, int] = {}
    for schema in getattr(native, "get_all_operator_schema", tuple)():
        if schema.domain in STANDARD:
            highest[schema.domain] = max(highest.get(schema.domain, 0), schema.since_version)
    return highest


def _hello() -> dict[str, Any]:
    """Imports the runtime and runs it once.

    With its first session onnxruntime reads from /proc and /sys what the processor can do. Left to
    the first model, it would find both closed, and take the slowest path on some of them.
    """
    import onnxruntime

    import_what_code_needs()
    onnxruntime.InferenceSession(
        SMALLEST_MODEL, sess_options=_quiet_options(1), providers=["CPUExecutionProvider"]
    )
    return {
        "runtime": onnxruntime.__version__,
        "providers": onnxruntime.get_available_providers(),
    }


def _quiet_options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what it raises is reported; a log nobody reads is not kept
    return options


def _wire(layers: list[Layer]) -> list[list[Any]]:
    return [[layer.name, layer.holds, layer.detail] for layer in layers]


def _failure(kind: str, error: Exception) -> dict[str, Any]:
    message = f"{type(error).__name__}: {error}"[:MESSAGE_CHARS_MAX]
    if isinstance(error, MemoryError) or any(words in message for words in _OUT_OF_MEMORY):
        kind = "out_of_memory"
    return {"error": kind, "message": message}


# --- the process itself --------------------------------------------------------------------------


def _die_with(parent_pid: int) -> None:
    """Ask the kernel for SIGKILL when the agent dies, however it dies and whatever runs here."""
    confinement.die_with_parent()
    if os.getppid() != parent_pid:  # it died before the line above
        sys.exit(1)


# --- what onnxruntime says ------------------------------------------------------------------------


def _described(node: Any) -> tuple[str, str, Sequence[Any]]:
    """Name, datatype, shape; a shape holds numbers, names of free dimensions, and None."""
    # Some exporters write "?" for "any size"; taken for a name, all of them would have to be equal.
    shape = [None if size == "?" else size for size in node.shape]
    return node.name, _OIP_OF_ONNX.get(node.type, node.type), shape


if __name__ == "__main__":
    main()
