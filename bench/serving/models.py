"""The models that are served: a real one for vision out of a wheel, and a tiny one.

PP-OCRv4's text direction classifier (a MobileNetV3 for the direction of text in images, 0.6 MB,
Apache-2.0, PaddlePaddle authors) as rapidocr-onnxruntime ships it: 48 x 192 pixels in, two numbers
out, and batches of any size.
"""

import hashlib
import random
import struct
from dataclasses import dataclass
from pathlib import Path

from bench.delta.wheels import Member, Wheel, read

RAPIDOCR = Wheel("rapidocr-onnxruntime", "1.4.4", "Apache-2.0")
DIRECTION = Member(
    RAPIDOCR,
    "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
)


@dataclass(frozen=True, slots=True)
class Model:
    """``row_shape`` is of one row of the only input; the first dimension of both is free."""

    name: str
    title: str
    content: bytes
    input_name: str
    output_name: str
    row_shape: tuple[int, ...]
    output_row_shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        elements = 1
        for size in self.row_shape:
            elements *= size
        return 4 * elements

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def rows(self, count: int) -> bytes:
        """Numbers between 0 and 1, the same in every run."""
        rng = random.Random(1)
        elements = count * self.row_bytes // 4
        return struct.pack(f"<{elements}f", *(rng.random() for _ in range(elements)))


def vision(cache: Path) -> Model:
    return Model(
        name="direction",
        title="PP-OCR mobile v2.0 text direction classifier, 3x48x192",
        content=read(cache, DIRECTION),
        input_name="x",
        output_name="save_infer_model/scale_0.tmp_1",
        row_shape=(3, 48, 192),
        output_row_shape=(2,),
    )


def tiny() -> Model:
    """y = 2 x + 1 over [batch, 4]: nothing to compute, so what is left is the way there."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants = {"factor": 2, "one": 1}
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "factor"], ["scaled"]),
            helper.make_node("Add", ["scaled", "one"], ["y"]),
        ],
        "affine",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [
            numpy_helper.from_array(np.array(value, np.float32), name)
            for name, value in constants.items()
        ],
    )
    made: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    return Model(
        name="tiny",
        title="y = 2 x + 1 over four numbers",
        content=made.SerializeToString(),
        input_name="x",
        output_name="y",
        row_shape=(4,),
        output_row_shape=(4,),
    )
