# ruff: noqa: INP001 - a script
"""Write a small model and its golden samples, to have something to release.

    python examples/make_model.py DIRECTORY [--seed N] [--wrong]

``--wrong`` shifts the expected outputs, as if the model had been exported badly: it is signed and
approved like any other, and every device refuses it in its trial.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SAMPLES = 16
OPSET = 15
IR_VERSION = 8  # what onnxruntime has read since 1.10


def make_model(weights: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    """score = sigmoid(window x weights + bias)."""
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["window", "weights", "bias"], ["sum"]),
            helper.make_node("Sigmoid", ["sum"], ["score"]),
        ],
        "heat",
        [helper.make_tensor_value_info("window", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows", 1])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--wrong", action="store_true")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    weights = rng.normal(size=(4, 1)).astype(np.float32)
    bias = rng.normal(size=(1,)).astype(np.float32)

    # The first axis counts samples; what remains is one request: one row of four temperatures.
    windows = rng.normal(size=(SAMPLES, 1, 4)).astype(np.float32)
    scores = 1 / (1 + np.exp(-(windows @ weights + bias)))
    if options.wrong:
        scores = scores + 0.5

    options.directory.mkdir(parents=True, exist_ok=True)
    onnx.save(make_model(weights, bias), options.directory / "model.onnx")
    golden = {"in.window": windows, "out.score": scores.astype(np.float32)}
    np.savez(options.directory / "golden.npz", **golden)


if __name__ == "__main__":
    main()
