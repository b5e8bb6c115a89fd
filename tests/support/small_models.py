"""ONNX models small enough to make on the spot, for the tools that build bundles of them."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def classifier(seed: int = 1, *, classes: int = 4, hidden: int = 64) -> bytes:
    """``x`` [batch, 16] to ``p`` [batch, classes]: two layers and a softmax."""
    rng = np.random.default_rng(seed)

    def weights(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)

    return serialized(
        [
            helper.make_node("MatMul", ["x", "w1"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "w2"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["p"]),
        ],
        [("x", TensorProto.FLOAT, ["batch", 16])],
        [("p", TensorProto.FLOAT, ["batch", classes])],
        [weights("w1", 16, hidden), weights("w2", hidden, classes)],
    )


def embedding(vocabulary: int) -> bytes:
    """``tokens`` [batch, length] must be below ``vocabulary``; answers a row for each."""
    table = np.arange(2 * vocabulary, dtype=np.float32).reshape(vocabulary, 2)
    return serialized(
        [helper.make_node("Gather", ["table", "tokens"], ["rows"])],
        [("tokens", TensorProto.INT64, ["batch", "length"])],
        [("rows", TensorProto.FLOAT, ["batch", "length", 2])],
        [numpy_helper.from_array(table, "table")],
    )


def dice() -> bytes:
    """Answers another number every time."""
    return serialized(
        [
            helper.make_node("RandomNormalLike", ["x"], ["noise"]),
            helper.make_node("Add", ["x", "noise"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, ["batch", 4])],
        [("y", TensorProto.FLOAT, ["batch", 4])],
    )


def hanging() -> bytes:
    """Counts to the largest number there is."""
    condition = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    carried = helper.make_tensor_value_info("c", TensorProto.FLOAT, ["batch", "length"])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["c", "c"], ["c_out"]),
        ],
        "body",
        [helper.make_tensor_value_info("round", TensorProto.INT64, []), condition, carried],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("c_out", TensorProto.FLOAT, ["batch", "length"]),
        ],
    )
    return serialized(
        [helper.make_node("Loop", ["rounds", "yes", "x"], ["y"], body=body)],
        [("x", TensorProto.FLOAT, ["batch", "length"])],
        [("y", TensorProto.FLOAT, ["batch", "length"])],
        [
            numpy_helper.from_array(np.array(np.iinfo(np.int64).max), "rounds"),
            numpy_helper.from_array(np.array(True), "yes"),
        ],
    )


def reading_other_files() -> bytes:
    """Keeps its weight in a file of another name."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")
    return serialized(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [("x", TensorProto.FLOAT, ["batch", 4])],
        [("y", TensorProto.FLOAT, ["batch", 4])],
        [weight],
    )


Tensors = list[tuple[str, int, list[Any]]]


def serialized(
    nodes: list[onnx.NodeProto],
    inputs: Tensors,
    outputs: Tensors,
    weights: list[TensorProto] | None = None,
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        weights or [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
