"""Small real models, and the release around each of them."""

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mailboat_agent.sealed_memory import verified_memory
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_schemas.documents.health import Health
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.release import File, FileRole, Variant
from mailboat_schemas.documents.release import Runtime as RuntimeNeeds

MIB = 1 << 20
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Models:
    """ONNX files made on the spot. All take ``x`` and answer ``y`` unless they say otherwise."""

    @staticmethod
    def of(nodes: list[Any], initializers: list[TensorProto], opset: int = 17) -> bytes:
        """Whatever these nodes make of x [batch, 4]."""
        return _model(nodes, initializers, opset)

    @staticmethod
    def affine(factor: float = 2.0) -> bytes:
        """y = factor * x + 1 over [batch, 4]."""
        initializers = [
            numpy_helper.from_array(np.array(factor, np.float32), "factor"),
            numpy_helper.from_array(np.array(1, np.float32), "one"),
        ]
        nodes = [
            helper.make_node("Mul", ["x", "factor"], ["scaled"]),
            helper.make_node("Add", ["scaled", "one"], ["y"]),
        ]
        return _model(nodes, initializers)

    @staticmethod
    def logarithm() -> bytes:
        """NaN below zero."""
        return _model([helper.make_node("Log", ["x"], ["y"])])

    @staticmethod
    def looping(rounds: int) -> bytes:
        """Adds one to x so many times, one after the other."""
        body = helper.make_graph(
            [
                helper.make_node("Add", ["carried", "step"], ["carried_out"]),
                helper.make_node("Identity", ["condition"], ["condition_out"]),
            ],
            "body",
            [
                helper.make_tensor_value_info("round", TensorProto.INT64, []),
                helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
                helper.make_tensor_value_info("carried", TensorProto.FLOAT, ["batch", 4]),
            ],
            [
                helper.make_tensor_value_info("condition_out", TensorProto.BOOL, []),
                helper.make_tensor_value_info("carried_out", TensorProto.FLOAT, ["batch", 4]),
            ],
            [numpy_helper.from_array(np.array(1, np.float32), "step")],
        )
        initializers = [
            numpy_helper.from_array(np.array(rounds, np.int64), "rounds"),
            numpy_helper.from_array(np.array(True), "yes"),
        ]
        loop = helper.make_node("Loop", ["rounds", "yes", "x"], ["y"], body=body)
        return _model([loop], initializers)

    @classmethod
    def hanging(cls) -> bytes:
        return cls.looping(np.iinfo(np.int64).max)

    @staticmethod
    def hungry(size_bytes: int) -> bytes:
        """Fills so much memory on its way to y = the sum of x."""
        rows = size_bytes // 16
        initializers = [
            numpy_helper.from_array(np.array([rows, 1, 4], np.int64), "shape"),
            numpy_helper.from_array(np.array([0], np.int64), "axes"),
        ]
        nodes = [
            helper.make_node("Expand", ["x", "shape"], ["wide"]),
            helper.make_node("ReduceMax", ["wide", "axes"], ["y"], keepdims=0),
        ]
        return _model(nodes, initializers, opset=18)

    @staticmethod
    def picky() -> bytes:
        """onnxruntime raises when x holds anything but 0 to 3: they are used as an index."""
        initializers = [numpy_helper.from_array(np.arange(4, dtype=np.float32), "table")]
        nodes = [
            helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["y"]),
        ]
        return _model(nodes, initializers)

    @staticmethod
    def with_external_data(location: str) -> bytes:
        weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "16")):
            weight.external_data.add(key=key, value=value)
        return _model([helper.make_node("Add", ["x", "w"], ["y"])], [weight])

    @staticmethod
    def of_many_types() -> tuple[bytes, Interface]:
        """Answers each of its inputs, unchanged; a and b share the dimension ``batch``."""
        types = {
            "a": ("float16", TensorProto.FLOAT16),
            "b": ("int64", TensorProto.INT64),
            "c": ("bool", TensorProto.BOOL),
            "d": ("string", TensorProto.STRING),
            "e": ("uint8", TensorProto.UINT8),
        }
        graph = helper.make_graph(
            [helper.make_node("Identity", [name], [name.upper()]) for name in types],
            "types",
            [helper.make_tensor_value_info(n, t, ["batch"]) for n, (_, t) in types.items()],
            [helper.make_tensor_value_info(n.upper(), t, ["batch"]) for n, (_, t) in types.items()],
        )
        interface = Interface.model_validate(
            {
                "inputs": [{"name": n, "dtype": d, "shape": [-1]} for n, (d, _) in types.items()],
                "outputs": [
                    {"name": n.upper(), "dtype": d, "shape": [-1]} for n, (d, _) in types.items()
                ],
            }
        )
        return _serialized(graph, 17), interface


def _model(
    nodes: list[Any], initializers: list[TensorProto] | None = None, opset: int = 17
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        initializers or [],
    )
    return _serialized(graph, opset)


def _serialized(graph: onnx.GraphProto, opset: int) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def golden_bytes(inputs: np.ndarray[Any, Any], outputs: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"in.x": inputs, "out.y": outputs}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


X_TO_Y = Interface.model_validate(
    {
        "inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [-1, 4]}],
    }
)


def variant(
    *,
    sha256: str = "0" * 64,
    peak_memory: int = 256 * MIB,
    needs: RuntimeNeeds | None = None,
    **health: Any,
) -> Variant:
    return Variant(
        hardware_classes=("box",),
        files=(File(path="m.onnx", role=FileRole.MODEL, sha256=sha256, length=1),),
        runtime=needs or RuntimeNeeds(),
        peak_memory=peak_memory,
        health=Health(**health),
    )


@dataclass
class Bench:
    """Files as the store hands them over: open descriptors, closed when the test ends."""

    directory: Path
    stack: ExitStack

    def open(self, content: bytes) -> int:
        fd = verified_memory([content], hashlib.sha256(content).hexdigest())
        self.stack.callback(os.close, fd)
        return fd

    def open_file(self, content: bytes) -> int:
        """Too large for memory, say: it stays a file that somebody may write to."""
        path = self.directory / "model.onnx"
        path.write_bytes(content)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.stack.callback(os.close, fd)
        return fd

    def release(
        self,
        model: bytes,
        *,
        version: str = "1.0.0",
        interface: Interface = X_TO_Y,
        on_disk: bool = False,
        **health: Any,
    ) -> ServedRelease:
        return ServedRelease(
            model="m",
            version=version,
            digest=version.replace(".", "").ljust(64, "0"),
            interface=interface,
            variant=variant(sha256=hashlib.sha256(model).hexdigest(), **health),
            model_fd=self.open_file(model) if on_disk else self.open(model),
            memory_limit_bytes=512 * MIB,
        )


@pytest.fixture
def models() -> type[Models]:
    return Models


@pytest.fixture
def make_variant() -> Callable[..., Variant]:
    return variant


@pytest.fixture
def make_golden() -> Callable[..., bytes]:
    return golden_bytes


@pytest.fixture
def x_to_y() -> Interface:
    return X_TO_Y


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    files = tmp_path / "store"
    files.mkdir()
    with ExitStack() as stack:
        yield Bench(files, stack)


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    runtime = Runtime(clock=lambda: NOON)
    yield runtime
    runtime.close()
