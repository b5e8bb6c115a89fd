"""A model's inputs and outputs, as onnxruntime sees them and as a release declares them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from mailboat_controller.bundles.device_process import ModelRefused
from mailboat_schemas.documents.interface import TENSORS_MAX, Interface, Tensor

_SHOWN_CHARS_MAX = 128  # of a name, in a sentence

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
_OIP_OF_DOCUMENT = {name: datatype for datatype, name in _DOCUMENT_OF_OIP.items()}


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
    """``inputs`` and ``outputs`` are what callers see, ``model`` is what the model itself has."""

    runtime_version: str
    provider: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    model: Interface

    @classmethod
    def of_answer(
        cls,
        answer: dict[str, Any],
        inputs: Sequence[Tensor] = (),
        outputs: Sequence[Tensor] = (),
    ) -> "OpenedModel":
        """``inputs`` and ``outputs`` are declared where code of the release's own makes them.

        Raises:
            ModelRefused: no release may declare what the model has.
        """
        taken, given = tuple(_ports(answer["inputs"])), tuple(_ports(answer["outputs"]))
        return cls(
            runtime_version=answer["runtime"],
            provider=answer["provider"],
            inputs=declared_ports(inputs) or taken,
            outputs=declared_ports(outputs) or given,
            model=_interface(taken, given),
        )

    def interface(self) -> Interface:
        """What the release declares; every free dimension is -1."""
        return _interface(self.inputs, self.outputs)


def declared_ports(tensors: Iterable[Tensor]) -> tuple[Port, ...]:
    """A document's tensors as onnxruntime's are told."""
    return tuple(
        Port(
            tensor.name,
            _OIP_OF_DOCUMENT[tensor.dtype],
            tuple(None if size == -1 else size for size in tensor.shape),
        )
        for tensor in tensors
    )


def _interface(inputs: Sequence[Port], outputs: Sequence[Port]) -> Interface:
    if not inputs:
        raise ModelRefused(
            "It has no inputs: it answers the same whatever is asked.",
            "export it with the inputs that callers send.",
        )
    try:
        return Interface(inputs=_tensors(inputs), outputs=_tensors(outputs))
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelRefused(
            f"No release can declare its {first['loc'][0]}: {first['msg']}.",
            f"export it with up to {TENSORS_MAX} inputs and outputs.",
        ) from error


def _ports(items: Iterable[Sequence[Any]]) -> Iterable[Port]:
    for name, datatype, shape in items:
        yield Port(name, datatype, tuple(shape))


def _tensors(ports: Sequence[Port]) -> tuple[Tensor, ...]:
    return tuple(_tensor(port) for port in ports)


def _tensor(port: Port) -> Tensor:
    sizes = [size if isinstance(size, int) and size >= 0 else -1 for size in port.shape]
    content = {"name": port.name, "dtype": _dtype(port), "shape": sizes}
    try:
        return Tensor.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        shown = port.name if len(port.name) <= _SHOWN_CHARS_MAX else f"{port.name[:60]}…"
        raise ModelRefused(
            f"No release can declare the {first['loc'][0]} of {shown!r}: {first['msg']}.",
            "export the model with a shorter name for it, and with fewer dimensions.",
        ) from error


def _dtype(port: Port) -> str:
    dtype = _DOCUMENT_OF_OIP.get(port.datatype)
    if dtype is None:
        raise ModelRefused(
            f"{port.name!r} is {port.datatype}; a release declares only "
            f"{', '.join(_DOCUMENT_OF_OIP.values())}.",
            "export the model with a Cast to one of these.",
        )
    return dtype
