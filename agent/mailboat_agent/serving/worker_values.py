"""What is asked of a worker process and what it answers, without the process."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mailboat_agent.serving.confinement import DETAIL_CHARS_MAX, Layer
from mailboat_agent.serving.tensors import Tensor

LAYERS_MAX, LAYER_CHARS_MAX = 32, 32  # of a confinement: half as many, of a word each
CHECK_OUTPUT_CHARS_MAX = 64 << 10  # of a check's report, in a worker and in the agent


@dataclass(frozen=True, slots=True)
class CheckAnswer:
    """What a release's own check left: exit code, stdout, and what it raised if it did."""

    exit_code: int
    stdout: str
    raised: str


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """Names of the functions, and what callers are promised behind them."""

    preprocess: str | None
    postprocess: str | None
    outputs: "tuple[Port, ...]"

    def to_wire(self) -> dict[str, Any]:
        outputs = [[port.name, port.datatype, list(port.shape)] for port in self.outputs]
        return {
            "preprocess": self.preprocess,
            "postprocess": self.postprocess,
            "outputs": outputs,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """``model_sha256`` is compared by the worker when the descriptor is not of sealed memory."""

    providers: tuple[str, ...]
    threads: int
    memory_limit_bytes: int
    model_sha256: str | None = None
    pipeline: PipelineOptions | None = None

    def to_wire(self) -> dict[str, Any]:
        return {
            "providers": list(self.providers),
            "threads": self.threads,
            "memory_limit_bytes": self.memory_limit_bytes,
            "sha256": self.model_sha256,
            "pipeline": None if self.pipeline is None else self.pipeline.to_wire(),
        }


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """What this device's onnxruntime is and can do, and how a worker of it is confined."""

    version: str
    providers: tuple[str, ...]
    confinement: tuple[Layer, ...] = ()


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output as onnxruntime sees it; text and None in ``shape`` are free dimensions."""

    name: str
    datatype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True)
class Description:
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    providers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inference:
    outputs: tuple[Tensor, ...]
    run_ms: float  # inside onnxruntime; the rest of what the caller waits is ours


def description_of_wire(answer: Mapping[str, Any]) -> Description:
    """
    Raises:
        ValueError, KeyError, TypeError: nonsense.
    """
    return Description(
        inputs=tuple(_port(item) for item in answer["inputs"]),
        outputs=tuple(_port(item) for item in answer["outputs"]),
        providers=tuple(str(name) for name in answer["providers"]),
    )


def layers_of_wire(items: Any) -> tuple[Layer, ...]:
    """What the worker said of its confinement, before it had seen a model."""
    return tuple(
        Layer(str(name)[:LAYER_CHARS_MAX], bool(holds), str(detail)[:DETAIL_CHARS_MAX])
        for name, holds, detail in items[:LAYERS_MAX]
    )


def _port(item: Any) -> Port:
    name, datatype, shape = item
    return Port(str(name), str(datatype), tuple(shape))
