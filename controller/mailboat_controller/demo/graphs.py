"""ONNX graphs of the demo: the small models it can make itself, and how good ones are broken.

The only module that uses ``onnx``. silero-vad keeps its weights in constants inside the branches of
an If, so every edit here walks the sub-graphs too.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from mailboat_schemas.documents.interface import Interface, Tensor

LOUD_PEAK = 0.9  # beyond it the defective release fails the request
HIDDEN = 128
GATES = 4
FRAME_KERNEL_SAMPLES = 64
FRAME_STRIDE_SAMPLES = 32
# Of the layer that makes a probability: silero-vad's names, and those of models made here.
OUTPUT_LAYER = ("decoder.2.weight", "decoder.2.bias", "decoder.out.weight", "decoder.out.bias")
FINE_TUNE_SCALE = 0.1  # relative change of its weights: the outputs move visibly
FINE_TUNE_SHIFT = 1.0  # of its bias, in logits
MADE_OPSET = 15
MADE_IR_VERSION = 8  # what onnxruntime has read since 1.10

_DTYPES: Mapping[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.INT16: "int16",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.BOOL: "bool",
    onnx.TensorProto.STRING: "string",
}


def read_interface(model: bytes) -> Interface:
    """Inputs and outputs as the model declares them; a dimension without a number becomes -1."""
    graph = onnx.load_from_string(model).graph
    return Interface(
        inputs=tuple(_tensor(value) for value in graph.input),
        outputs=tuple(_tensor(value) for value in graph.output),
    )


def with_gates_misordered(model: bytes) -> bytes:
    """The same model after a bad export: it loads, it runs, its answers are wrong.

    PyTorch stores the gates of an LSTM as input, forget, cell, output; ONNX wants input, output,
    forget, cell. Here the weights were reordered twice, an old mistake of export scripts.

    Raises:
        ValueError: the model has no LSTM weights by the names that PyTorch gives.
    """
    proto = onnx.load_from_string(model)
    suffixes = (".weight_ih", ".weight_hh")
    weights = [tensor for name, tensor in _weights(proto.graph) if name.endswith(suffixes)]
    if not weights:
        raise ValueError("the model has no tensor named *.weight_ih or *.weight_hh")
    for tensor in weights:
        blocks = numpy_helper.to_array(tensor).reshape(GATES, -1)
        misordered = np.ascontiguousarray(blocks[[0, 3, 1, 2]]).reshape(tuple(tensor.dims))
        tensor.CopyFrom(numpy_helper.from_array(misordered, tensor.name))
    return _checked(proto)


def with_output_layer_tuned(model: bytes, seed: int) -> bytes:
    """The same model with another output layer: what tuning the last layer alone leaves.

    That is how models are adapted to a place: a frozen backbone, and a new last layer. No training
    is done here: its weights move by ``seed``, and the threshold to hear a voice goes down.

    Raises:
        ValueError: the model has no output layer by the names that these models give it.
    """
    proto = onnx.load_from_string(model)
    rng = np.random.default_rng(seed)
    tuned = [tensor for name, tensor in _weights(proto.graph) if name.endswith(OUTPUT_LAYER)]
    if not tuned:
        raise ValueError(f"the model has no tensor named *{' or *'.join(OUTPUT_LAYER)}")
    for tensor in tuned:
        before = numpy_helper.to_array(tensor)
        after = before * (1 + FINE_TUNE_SCALE * rng.standard_normal(before.shape))
        if before.size == 1:
            after = before + FINE_TUNE_SHIFT
        tensor.CopyFrom(numpy_helper.from_array(after.astype(before.dtype), tensor.name))
    return _checked(proto)


def with_clipping_defect(model: bytes) -> bytes:
    """The same model behind a gain control with one level too few: clipped audio fails the request.

    Up to a peak of 0.9 the gain is exactly 1, so the outputs are equal to the bit. Beyond it the
    level is 1, the gain table has a single row, and onnxruntime refuses to gather from it.
    """
    proto = onnx.load_from_string(model)
    graph = proto.graph
    audio = graph.input[0].name
    _rename_uses(graph, audio, "agc/levelled")
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(LOUD_PEAK, np.float32), "agc/loud"),
            numpy_helper.from_array(np.ones(1, np.float32), "agc/gains"),
        ]
    )
    nodes = [
        helper.make_node("Abs", [audio], ["agc/abs"]),
        helper.make_node("ReduceMax", ["agc/abs"], ["agc/peak"], keepdims=0),
        helper.make_node("Greater", ["agc/peak", "agc/loud"], ["agc/is_loud"]),
        helper.make_node("Cast", ["agc/is_loud"], ["agc/level"], to=onnx.TensorProto.INT64),
        # Named, because onnxruntime puts the name into the error an operator will read.
        helper.make_node("Gather", ["agc/gains", "agc/level"], ["agc/gain"], "agc/gain_of_level"),
        helper.make_node("Mul", [audio, "agc/gain"], ["agc/levelled"]),
    ]
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes + rest)  # nodes stand in the order they run in
    return _checked(proto)


def made_model(*, filters: int, seed: int) -> bytes:
    """A small voice-shaped model with silero-vad's interface: convolution, LSTM, probability.

    It knows nothing about voices: its weights are drawn from ``seed``. Same arguments, same bytes.
    ``sr`` is an input that the graph does not look at, as in silero-vad's own 16 kHz file.
    """
    names_and_shapes = {
        "encoder.weight": (filters, 1, FRAME_KERNEL_SAMPLES),
        "encoder.bias": (filters,),
        "decoder.rnn.weight_ih": (1, GATES * HIDDEN, filters),
        "decoder.rnn.weight_hh": (1, GATES * HIDDEN, HIDDEN),
        "decoder.rnn.bias": (1, 2 * GATES * HIDDEN),
        "decoder.out.weight": (HIDDEN, 1),
        "decoder.out.bias": (1,),
    }
    draw = _weight_source(seed)
    initializers = [
        numpy_helper.from_array(draw(shape), name) for name, shape in names_and_shapes.items()
    ]
    initializers += [
        numpy_helper.from_array(np.array([value], np.int64), name)
        for name, value in (("zero", 0), ("one", 1), ("two", 2))
    ]
    float32, int64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    graph = helper.make_graph(
        _made_nodes(),
        "made-vad",
        [
            helper.make_tensor_value_info("input", float32, ["batch", "sequence"]),
            helper.make_tensor_value_info("state", float32, [2, "batch", HIDDEN]),
            helper.make_tensor_value_info("sr", int64, []),
        ],
        [
            helper.make_tensor_value_info("output", float32, ["batch", 1]),
            helper.make_tensor_value_info("stateN", float32, [2, "batch", HIDDEN]),
        ],
        initializers,
    )
    opset = helper.make_opsetid("", MADE_OPSET)
    proto = helper.make_model(graph, opset_imports=[opset], ir_version=MADE_IR_VERSION)
    return _checked(proto)


def _made_nodes() -> list[onnx.NodeProto]:
    node = helper.make_node
    lstm_inputs = ["steps", "decoder.rnn.weight_ih", "decoder.rnn.weight_hh", "decoder.rnn.bias"]
    return [
        node("Unsqueeze", ["input", "one"], ["wave"]),
        node(
            "Conv",
            ["wave", "encoder.weight", "encoder.bias"],
            ["bands"],
            kernel_shape=[FRAME_KERNEL_SAMPLES],
            strides=[FRAME_STRIDE_SAMPLES],
        ),
        node("Relu", ["bands"], ["energies"]),
        node("Transpose", ["energies"], ["steps"], perm=[2, 0, 1]),
        node("Slice", ["state", "zero", "one", "zero"], ["hidden"]),
        node("Slice", ["state", "one", "two", "zero"], ["cell"]),
        node(
            "LSTM",
            [*lstm_inputs, "", "hidden", "cell"],
            ["", "hiddenN", "cellN"],
            hidden_size=HIDDEN,
        ),
        node("Concat", ["hiddenN", "cellN"], ["stateN"], axis=0),
        node("Squeeze", ["hiddenN", "zero"], ["features"]),
        node("Gemm", ["features", "decoder.out.weight", "decoder.out.bias"], ["score"]),
        node("Sigmoid", ["score"], ["output"]),
    ]


def _weight_source(seed: int) -> Callable[[tuple[int, ...]], npt.NDArray[np.float32]]:
    rng = np.random.default_rng(seed)

    def draw(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        scale = 1 / np.sqrt(max(shape[-1], 8))
        weights = scale * rng.standard_normal(shape)
        single: npt.NDArray[np.float32] = weights.astype(np.float32)
        return single

    return draw


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    tensor = value.type.tensor_type
    shape = tuple(d.dim_value if d.dim_value > 0 else -1 for d in tensor.shape.dim)
    return Tensor.model_validate(
        {"name": value.name, "dtype": _DTYPES[tensor.elem_type], "shape": shape}
    )


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and, depth first, every graph inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _weights(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Initializers, and the tensors of Constant nodes by the name of what they feed."""
    for each in _graphs(graph):
        for tensor in each.initializer:
            yield tensor.name, tensor
        for node in each.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                yield node.output[0], node.attribute[0].t


def _rename_uses(graph: onnx.GraphProto, old: str, new: str) -> None:
    # No branch of an If takes inputs of its own, so no sub-graph can shadow the name.
    for each in _graphs(graph):
        for node in each.node:
            node.input[:] = [new if name == old else name for name in node.input]


def _checked(proto: onnx.ModelProto) -> bytes:
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content
