"""The worker process: one model, one session, and nothing that the agent could not do without.

Started by `process` as ``python -m mailboat_agent.serving.worker``; the only module of the agent
that imports onnxruntime and numpy. It answers frames on an inherited socket until the socket
closes. The model arrives as an open file descriptor of verified bytes and is handed to onnxruntime
as bytes, never as a path.
"""

import argparse
import ctypes
import faulthandler
import os
import resource
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailboat_agent.serving.frames import (
    FRAME_BYTES_MAX,
    FrameTooLarge,
    PeerGone,
    receive_frame,
    send_frame,
)
from mailboat_agent.serving.tensors import Tensor, tensor_of_wire

if TYPE_CHECKING:
    import numpy as np

MODEL_BYTES_MAX = 0x7FFFF000  # one read(2); protobuf itself ends at 2 GiB
MESSAGE_CHARS_MAX = 1000
OUTPUT_BYTES_MAX = FRAME_BYTES_MAX - (1 << 20)  # leaves room for names and shapes
_PR_SET_PDEATHSIG = 1

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

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = request["threads"]
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what it raises is reported; a log nobody reads is not kept
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
    parser.add_argument("--socket-fd", type=int, required=True)
    parser.add_argument("--model-fd", type=int, required=True)
    parser.add_argument("--parent-pid", type=int, required=True)
    arguments = parser.parse_args()
    _die_with(arguments.parent_pid)
    _be_the_first_to_go()
    os.set_blocking(2, False)  # the agent reads stderr only once this process is dead
    faulthandler.enable()  # a crash leaves its stack on stderr, which the agent keeps as evidence
    sock = socket.socket(fileno=arguments.socket_fd)
    try:
        send_frame(sock, _hello())
        _serve(sock, arguments.model_fd)
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
                session = _load(model_fd, request)
                answer = session.describe()
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


def _load(model_fd: int, request: dict[str, Any]) -> Session:
    size = os.fstat(model_fd).st_size
    if size > MODEL_BYTES_MAX:
        raise RequestFailed("load_failed", f"a model of {size} bytes is over {MODEL_BYTES_MAX}")
    _limit_memory(request["memory_limit_bytes"])
    if request["providers"] == ["CPUExecutionProvider"]:
        # Other providers open device files. This one needs none, so the model gets none.
        _open_no_more_files()
    model = os.pread(model_fd, size, 0)
    if len(model) != size:
        raise RequestFailed("load_failed", f"read {len(model)} of {size} bytes")
    return Session(model, request)


def _hello() -> dict[str, Any]:
    import onnxruntime

    return {
        "runtime": onnxruntime.__version__,
        "providers": onnxruntime.get_available_providers(),
    }


def _failure(kind: str, error: Exception) -> dict[str, Any]:
    message = f"{type(error).__name__}: {error}"[:MESSAGE_CHARS_MAX]
    if isinstance(error, MemoryError) or any(words in message for words in _OUT_OF_MEMORY):
        kind = "out_of_memory"
    return {"error": kind, "message": message}


# --- the process itself --------------------------------------------------------------------------


def _die_with(parent_pid: int) -> None:
    """Ask the kernel for SIGKILL when the agent dies, however it dies and whatever runs here."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the line above
        sys.exit(1)


def _be_the_first_to_go() -> None:
    """When memory runs out the kernel takes a worker, which is restarted, and not the agent."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # no /proc, or forbidden: a preference, not a protection
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _limit_memory(limit_bytes: int) -> None:
    """A hard limit on what this process may allocate.

    RLIMIT_DATA counts private writable pages (heap and anonymous mappings, since Linux 4.7).
    RLIMIT_AS would count the address space too: shared libraries, reserved arenas and a GPU's
    mappings, gigabytes that nobody uses. RLIMIT_RSS has no effect since Linux 2.4.30.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def _open_no_more_files() -> None:
    """From here on open(2) fails: a model that refers to external data reads nothing.

    The limit is on the number of a new descriptor, and every number below ``lowest`` is taken.
    """
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, lowest))


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
