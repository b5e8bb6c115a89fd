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
from mailboat_agent.serving.smallest_model import SMALLEST_MODEL
from mailboat_agent.serving.tensors import Tensor, tensor_of_wire
from mailboat_agent.serving.worker_unit import accepted_connection

if TYPE_CHECKING:
    import numpy as np

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
_NUMPY_OF_OIP = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_OIP_OF_KIND = {"b1": "BOOL", "f2": "FP16", "f4": "FP32", "f8": "FP64"}
_OIP_OF_KIND |= {f"u{size}": f"UINT{8 * size}" for size in (1, 2, 4, 8)}
_OIP_OF_KIND |= {f"i{size}": f"INT{8 * size}" for size in (1, 2, 4, 8)}


class RequestFailed(Exception):
    """Answered to the agent; the worker goes on. ``kind`` is a word that `process` knows."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Session:
    """One loaded model."""

    def __init__(self, model: bytes, request: dict[str, Any]) -> None:
        import onnxruntime

        options = _quiet_options(request["threads"])
        # Threads that spin for work burn a core of a device that mostly waits.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._ort = onnxruntime.InferenceSession(
            model, sess_options=options, providers=request["providers"]
        )
        self._output_names = [output.name for output in self._ort.get_outputs()]

    def describe(self) -> dict[str, Any]:
        metadata = self._ort.get_modelmeta()
        return {
            "inputs": [_described(node) for node in self._ort.get_inputs()],
            "outputs": [_described(node) for node in self._ort.get_outputs()],
            "providers": self._ort.get_providers(),
            "producer": metadata.producer_name[:128],
        }

    def infer(self, request: dict[str, Any]) -> dict[str, Any]:
        feeds = {
            tensor.name: _to_array(tensor) for tensor in map(tensor_of_wire, request["inputs"])
        }
        names = request["outputs"] or self._output_names
        started = time.perf_counter()
        results = self._ort.run(names, feeds)
        run_ms = (time.perf_counter() - started) * 1000
        if sum(getattr(result, "nbytes", 0) for result in results) > OUTPUT_BYTES_MAX:
            raise RequestFailed("run_failed", f"the outputs are over {OUTPUT_BYTES_MAX} bytes")
        outputs = [_to_wire(name, result) for name, result in zip(names, results, strict=True)]
        return {"outputs": outputs, "run_ms": run_ms}


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
    if arguments.accepted:
        sock, model_fd = accepted_connection()
    else:
        _die_with(arguments.parent_pid)
        sock, model_fd = socket.socket(fileno=arguments.socket_fd), arguments.model_fd
    try:
        hello = _hello()  # imports: the last time that this process reads a file of its own accord
        layers = confinement.at_start(user=arguments.user, parent_uid=arguments.parent_uid)
        if arguments.parent_pid is not None:
            _die_with(arguments.parent_pid)  # a change of user has taken it back
        send_frame(sock, hello | {"confinement": _wire(layers)})
        _serve(sock, model_fd)
    except PeerGone:
        return  # the agent closed the worker, or is gone itself


def _serve(sock: socket.socket, model_fd: int) -> None:
    session: Session | None = None
    while True:
        request = receive_frame(sock)
        if request["op"] == "quit":
            os._exit(0)  # nothing to save; taking the interpreter down in order costs 60 ms
        try:
            if request["op"] == "load":
                session, layers = _load(model_fd, request)
                answer = session.describe() | {"confinement": _wire(layers)}
            else:
                answer = _infer(session, request)
        except RequestFailed as error:
            answer = {"error": error.kind, "message": str(error)[:MESSAGE_CHARS_MAX]}
        except Exception as error:  # noqa: BLE001 - whatever a model makes onnxruntime raise
            answer = _failure("load_failed" if session is None else "run_failed", error)
        try:
            send_frame(sock, answer)
        except FrameTooLarge as error:  # long strings: their size shows only once they are packed
            send_frame(sock, {"error": "run_failed", "message": f"the outputs: {error}"})


def _infer(session: Session | None, request: dict[str, Any]) -> dict[str, Any]:
    if session is None or request["op"] != "infer":
        raise RequestFailed("protocol", f"{request['op']!r} is not possible now")
    return session.infer(request)


def _load(model_fd: int, request: dict[str, Any]) -> tuple[Session, list[Layer]]:
    size = os.fstat(model_fd).st_size
    if size > MODEL_BYTES_MAX:
        raise RequestFailed("load_failed", f"a model of {size} bytes is over {MODEL_BYTES_MAX}")
    layers = confinement.before_the_model(
        # Other providers open device files. This one needs none, so the model gets none.
        opens_files=request["providers"] != ["CPUExecutionProvider"],
        memory_limit_bytes=request["memory_limit_bytes"],
    )
    model = os.pread(model_fd, size, 0)
    if len(model) != size:
        raise RequestFailed("load_failed", f"read {len(model)} of {size} bytes")
    if request["sha256"] is not None and not is_sealed(model_fd):
        actual = hashlib.sha256(model).hexdigest()  # of the very bytes that are loaded next
        if actual != request["sha256"]:
            raise RequestFailed("altered", f"its sha256 is {actual}, not {request['sha256']}")
    _refuse_external_data(model)
    return Session(model, request), layers


def _refuse_external_data(model: bytes) -> None:
    try:
        external = refers_to_other_files(model)
    except ValueError as error:
        raise RequestFailed("load_failed", f"not an ONNX model: {error}") from error
    if external:
        raise RequestFailed(
            "external_data", "it keeps values in another file; a release's model is one file"
        )


def _hello() -> dict[str, Any]:
    """Imports the runtime and runs it once.

    With its first session onnxruntime reads from /proc and /sys what the processor can do. Left to
    the first model, it would find both closed, and take the slowest path on some of them.
    """
    import onnxruntime

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


# --- arrays --------------------------------------------------------------------------------------


def _described(node: Any) -> list[Any]:
    """``[name, datatype, shape]``; a shape holds numbers, names of free dimensions, and None."""
    return [node.name, _OIP_OF_ONNX.get(node.type, node.type), list(node.shape)]


def _to_array(tensor: Tensor) -> "np.ndarray[Any, Any]":
    import numpy as np

    if tensor.datatype == "BYTES":
        text = [element.decode() for element in tensor.values()]
        return np.array(text, dtype=object).reshape(tensor.shape)
    return np.frombuffer(tensor.data, dtype=_NUMPY_OF_OIP[tensor.datatype]).reshape(tensor.shape)


def _to_wire(name: str, result: Any) -> list[Any]:
    import numpy as np

    if not isinstance(result, np.ndarray):
        raise RequestFailed("run_failed", f"output {name!r} is a {type(result).__name__}")
    shape = list(result.shape)
    if result.dtype.kind in "OUS":
        encoded = [str(element).encode() for element in result.ravel()]
        data = b"".join(len(element).to_bytes(4, "little") + element for element in encoded)
        return [name, "BYTES", shape, data]
    datatype = _OIP_OF_KIND.get(result.dtype.str[1:])
    if datatype is None:
        raise RequestFailed("run_failed", f"output {name!r} has the type {result.dtype}")
    return [name, datatype, shape, result.tobytes()]


if __name__ == "__main__":
    main()
