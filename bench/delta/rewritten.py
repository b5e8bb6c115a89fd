"""The same network in other clothes: half precision, INT8, safetensors, another export."""

import json
import random
from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[np.generic]
WEIGHTS_MIN = 4096  # elements; what is smaller stays as it is, as every quantiser does
CHANNEL_AXIS = {"Const:0": 1, "transpose_3:0": 0, "Const_24:0": 1}  # by the end of a name
SEED = 11


def half_precision(content: bytes) -> bytes:
    """FP16 weights, cast when they are used."""
    model = onnx.load_from_string(content)
    before: list[onnx.NodeProto] = []
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and _elements(tensor) >= WEIGHTS_MIN:
            stored = f"{tensor.name}_half"
            values = numpy_helper.to_array(tensor).astype(np.float16)
            before.append(
                helper.make_node("Cast", [stored], [tensor.name], to=onnx.TensorProto.FLOAT)
            )
            tensor.CopyFrom(numpy_helper.from_array(values, stored))
    return _with_nodes_before(model, before)


def int8_per_channel(content: bytes) -> bytes:
    """Symmetric, one scale a channel, dequantised when used."""
    model = onnx.load_from_string(content)
    before: list[onnx.NodeProto] = []
    scales: list[onnx.TensorProto] = []
    for tensor in model.graph.initializer:
        axis = _channel_axis(tensor)
        if axis is None:
            continue
        values = numpy_helper.to_array(tensor).astype(np.float32)
        others = tuple(other for other in range(values.ndim) if other != axis)
        scale = np.abs(values).max(axis=others, keepdims=True) / np.float32(127)
        scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
        name = tensor.name
        parts = [f"{name}_int8", f"{name}_scale"]
        before.append(helper.make_node("DequantizeLinear", parts, [name], axis=axis))
        scales.append(numpy_helper.from_array(scale.reshape(-1), parts[1]))
        whole = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
        tensor.CopyFrom(numpy_helper.from_array(whole, parts[0]))
    model.graph.initializer.extend(scales)
    return _with_nodes_before(model, before)


def safetensors(content: bytes, *, bfloat16: bool) -> bytes:
    """The weights alone. Source: the safetensors format, version 0.4."""
    model = onnx.load_from_string(content)
    header: dict[str, object] = {}
    parts: list[bytes] = []
    offset = 0
    for tensor in sorted(model.graph.initializer, key=lambda each: each.name):
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        part = values.astype(ml_dtypes.bfloat16 if bfloat16 else np.float32).tobytes()
        header[tensor.name] = {
            "dtype": "BF16" if bfloat16 else "F32",
            "shape": list(values.shape),
            "data_offsets": [offset, offset + len(part)],
        }
        offset += len(part)
        parts.append(part)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return b"".join([len(head).to_bytes(8, "little"), head, *parts])


# --- changes that touch no weight ----------------------------------------------------------------


def _reordered(model: onnx.ModelProto) -> None:
    tensors = list(model.graph.initializer)
    random.Random(SEED).shuffle(tensors)
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)


def _described(model: onnx.ModelProto) -> None:
    model.producer_version = "9.1.4"
    model.model_version += 1
    model.graph.doc_string = "Trained on the night shift. " * 4
    entry = model.metadata_props.add()
    entry.key, entry.value = "training_run", "2f9c41d7b8e04c55"


def _newer_opset(model: onnx.ModelProto) -> None:
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version += 1
    model.ir_version += 1


def _renamed(model: onnx.ModelProto) -> None:
    """As another exporter names them; the weights stay in their order."""
    outside = {value.name for value in [*model.graph.input, *model.graph.output]}

    def called(name: str) -> str:
        return name if not name or name in outside else name.replace("jax2tf_", "export_v2_")

    for tensor in model.graph.initializer:
        tensor.name = called(tensor.name)
    for node in model.graph.node:
        node.name = called(node.name)
        for names in (node.input, node.output):
            changed = [called(name) for name in names]
            del names[:]
            names.extend(changed)


EDITS: Mapping[str, Callable[[onnx.ModelProto], None]] = {
    "reordered": _reordered,
    "metadata": _described,
    "opset": _newer_opset,
    "renamed": _renamed,
}


def edited(content: bytes, edit: str) -> bytes:
    model = onnx.load_from_string(content)
    EDITS[edit](model)
    return model.SerializeToString(deterministic=True)


def vocabulary(kinds: bytes) -> tuple[bytes, bytes]:
    """A text file as a tokenizer has: before and after a few entries came, went and moved."""
    entries = list(json.loads(kinds).items())
    before = json.dumps(dict(entries), indent=1).encode()
    chosen = random.Random(SEED)
    for number in range(5):
        entries.pop(chosen.randrange(len(entries)))
        place = chosen.randrange(len(entries))
        entries.insert(place, (f"extra-{number}", {"mime_type": "text/x-extra", "is_text": True}))
    entries.insert(3, entries.pop(200))
    return before, json.dumps(dict(entries), indent=1).encode()


def _channel_axis(tensor: onnx.TensorProto) -> int | None:
    if tensor.data_type != onnx.TensorProto.FLOAT or _elements(tensor) < WEIGHTS_MIN:
        return None
    return next((axis for end, axis in CHANNEL_AXIS.items() if tensor.name.endswith(end)), None)


def _elements(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims)) if tensor.dims else 1


def _with_nodes_before(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> bytes:
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    return model.SerializeToString(deterministic=True)
