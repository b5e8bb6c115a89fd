"""A model's inputs and outputs, as onnxruntime sees them and as a release declares them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mailboat_controller.bundles.device_process import ModelRefused
from mailboat_schemas.documents.interface import Interface, Tensor

_DOCUMENT_OF_OIP = {
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "BOOL": "bool",
    "BYTES": "string",
}


@dataclass(frozen=True, slots=True)
class Port:
    """Text and None in ``shape`` are free dimensions, with a name or without."""

    name: str
    datatype: str
    shape: tuple[int | str | None, ...]

    @property
    def shown_shape(self) -> str:
        return f"[{', '.join('?' if size is None else str(size) for size in self.shape)}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedModel:
    runtime_version: str
    provider: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @classmethod
    def of_answer(cls, answer: dict[str, Any]) -> "OpenedModel":
        return cls(
            runtime_version=answer["runtime"],
            provider=answer["provider"],
            inputs=tuple(_ports(answer["inputs"])),
            outputs=tuple(_ports(answer["outputs"])),
        )

    def interface(self) -> Interface:
        """What the release declares; every free dimension is -1.

        Raises:
            ModelRefused: a tensor has a type that no release may declare.
        """
        return Interface(inputs=_tensors(self.inputs), outputs=_tensors(self.outputs))


def _ports(items: Iterable[Sequence[Any]]) -> Iterable[Port]:
    for name, datatype, shape in items:
        yield Port(name, datatype, tuple(shape))


def _tensors(ports: Sequence[Port]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor.model_validate(
            {
                "name": port.name,
                "dtype": _dtype(port),
                "shape": [
                    size if isinstance(size, int) and size >= 0 else -1 for size in port.shape
                ],
            }
        )
        for port in ports
    )


def _dtype(port: Port) -> str:
    dtype = _DOCUMENT_OF_OIP.get(port.datatype)
    if dtype is None:
        raise ModelRefused(
            f"{port.name!r} is {port.datatype}; a release declares only "
            f"{', '.join(_DOCUMENT_OF_OIP.values())}.",
            "export the model with a Cast to one of these.",
        )
    return dtype
