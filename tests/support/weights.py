"""Small model files with weights in them, and a fine-tune of each, all seeded."""

import json
from collections.abc import Mapping

import flatbuffers
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

Weights = dict[str, npt.NDArray[np.floating]]
DTYPES = {"float16": "F16", "float32": "F32", "float64": "F64"}


def weights(seed: int = 1, numbers: int = 40_000, dtype: npt.DTypeLike = np.float32) -> Weights:
    rng = np.random.default_rng(seed)
    sizes = {"conv": numbers, "dense": numbers // 4, "bias": 64}
    return {name: (rng.standard_normal(n) * 0.03).astype(dtype) for name, n in sizes.items()}


def fine_tuned(before: Weights, scale: float = 3e-5, seed: int = 2) -> Weights:
    rng = np.random.default_rng(seed)
    return {
        name: (each + rng.standard_normal(each.size) * scale).astype(each.dtype)
        for name, each in before.items()
    }


def safetensors(tensors: Mapping[str, npt.NDArray[np.floating]], note: str = "") -> bytes:
    header: dict[str, object] = {"__metadata__": {"note": note}}
    offset = 0
    for name, each in tensors.items():
        place = [offset, offset + each.nbytes]
        kind = DTYPES[str(each.dtype)]
        header[name] = {"dtype": kind, "shape": [each.size], "data_offsets": place}
        offset += each.nbytes
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + b"".join(e.tobytes() for e in tensors.values())


def onnx_with_hidden_tensors(tensors: Weights, producer: str = "test") -> bytes:
    """One as raw_data in an initializer, one as float_data in a Constant, one in an If's branch."""
    conv, dense, bias = (tensors[name].astype(np.float32) for name in ("conv", "dense", "bias"))

    def constant(name: str, values: npt.NDArray[np.float32], *, raw: bool) -> onnx.NodeProto:
        content = values.tobytes() if raw else values.tolist()
        held = helper.make_tensor(name, TensorProto.FLOAT, [values.size], content, raw=raw)
        return helper.make_node("Constant", [], [f"{name}_out"], name=name, value=held)

    out = helper.make_tensor_value_info("dense_out", TensorProto.FLOAT, [dense.size])
    branch = helper.make_graph([constant("dense", dense, raw=True)], "branch", [], [out])
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    choice = helper.make_node("If", ["flag"], ["dense_out"], then_branch=branch, else_branch=branch)
    first = helper.make_tensor("conv", TensorProto.FLOAT, [conv.size], conv.tobytes(), raw=True)
    nodes = [constant("bias", bias, raw=False), choice]
    graph = helper.make_graph(nodes, "graph", [flag], [out], [first])
    content: bytes = helper.make_model(graph, producer_name=producer).SerializeToString()
    return content


def tflite(values: npt.NDArray[np.floating]) -> bytes:
    """One sub-graph with one FLOAT32 tensor, as the schema has it."""
    builder = flatbuffers.Builder(1024)
    data = builder.CreateByteVector(values.tobytes())
    builder.StartObject(3)
    builder.PrependUOffsetTRelativeSlot(0, data, 0)
    held = builder.EndObject()
    builder.StartObject(3)
    empty = builder.EndObject()
    builder.StartVector(4, 2, 4)
    builder.PrependUOffsetTRelative(held)
    builder.PrependUOffsetTRelative(empty)
    buffers = builder.EndVector()
    name = builder.CreateString("weights")
    builder.StartObject(4)
    builder.PrependUint32Slot(2, 1, 0)
    builder.PrependUOffsetTRelativeSlot(3, name, 0)
    tensor = builder.EndObject()
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(tensor)
    tensors = builder.EndVector()
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, tensors, 0)
    graph = builder.EndObject()
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(graph)
    graphs = builder.EndVector()
    builder.StartObject(5)
    builder.PrependUint32Slot(0, 3, 0)
    builder.PrependUOffsetTRelativeSlot(2, graphs, 0)
    builder.PrependUOffsetTRelativeSlot(4, buffers, 0)
    builder.Finish(builder.EndObject(), file_identifier=b"TFL3")
    return bytes(builder.Output())
