"""The process that makes a model smaller: ``python -m mailboat_controller.bundles.quantizing``.

One line of JSON on stdin, one on stdout. A process of its own because onnxruntime's tools load and
run the model right here, unconfined, and print what they please: what crashes or hangs is this.

fp16 is the converter that comes with onnxruntime, its own version of onnxconverter-common's: one
dependency less, and kept beside the runtime that has to load what it makes.
"""

import ctypes
import json
import logging
import os
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime import quantization
from onnxruntime.transformers import float16

# What becomes integers without calibration. Not convolutions: the scales of their inputs would be
# worked out anew for every request.
DYNAMIC_OPERATORS = ["MatMul", "Gemm", "LSTM", "Gather"]


class _Samples(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, path: str) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            inputs = {name.removeprefix("in."): arrays[name] for name in arrays.files}
        self._rows: Iterator[dict[str, Any]] = (
            {name: array[i] for name, array in inputs.items()}
            for i in range(len(next(iter(inputs.values()))))
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._rows, None)


# Of what it may allocate: more than any model of 2 GiB takes, less than a machine falls over with.
MEMORY_BYTES_MAX = 16 << 30
_PR_SET_PDEATHSIG = 1


def main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # it outlives nobody
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = MEMORY_BYTES_MAX if hard == resource.RLIM_INFINITY else min(hard, MEMORY_BYTES_MAX)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
    order = json.loads(sys.stdin.readline())
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    # The libraries print; our answer is the only line on the real stdout.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        answer = _made(order)
    except Exception as error:  # noqa: BLE001 - whatever the tools think of a model
        answer = {"error": f"{type(error).__name__}: {error}"[:1000]}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _made(order: dict[str, Any]) -> dict[str, Any]:
    source, target = Path(order["model"]), Path(order["out"])
    if order["to"] == "fp16":
        model = float16.convert_float_to_float16(onnx.load(source), keep_io_types=True)
        sortable = quantization.onnx_model.ONNXModel(model)
        sortable.topological_sort()  # the converter leaves the casts of inputs at the end
        target.write_bytes(_bytes(sortable.model))
        return {"method": "fp16"}
    with tempfile.TemporaryDirectory(prefix="mailboat-quantize-") as scratch:
        prepared, made = Path(scratch) / "prepared.onnx", Path(scratch) / "made.onnx"
        # Shapes of intermediate tensors; without sympy's guesses, which fail on many exports.
        quantization.quant_pre_process(source, prepared, skip_symbolic_shape=True)
        if order["samples"] is None:
            quantization.quantize_dynamic(
                prepared,
                made,
                op_types_to_quantize=DYNAMIC_OPERATORS,
                weight_type=quantization.QuantType.QInt8,
                extra_options={"EnableSubgraph": True},
            )
        else:
            quantization.quantize_static(
                prepared,
                made,
                _Samples(order["samples"]),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=order["per_channel"],
                # onnxruntime 1.31 cannot adjust the scales of channels, and raises ValueError.
                extra_options={"QDQDisableWeightAdjustForInt32Bias": order["per_channel"]},
            )
        target.write_bytes(_bytes(onnx.load(made)))
    if order["samples"] is None:
        return {"method": "dynamic"}
    return {"method": f"static, {'per channel' if order['per_channel'] else 'per tensor'}"}


def _bytes(model: Any) -> bytes:
    """The same model, the same bytes."""
    content: bytes = model.SerializeToString(deterministic=True)
    return content


if __name__ == "__main__":
    main()
