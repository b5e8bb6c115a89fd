"""What ``MLmodel`` says of a logged model: its ONNX flavour and its signature. Pure."""

import json
from dataclasses import dataclass
from typing import Any

import yaml

from mailboat_controller.sources.source import SourceRefused
from mailboat_schemas.documents.interface import Interface, Tensor
from mailboat_schemas.errors import ReleaseRejected

MLMODEL = "MLmodel"
MLMODEL_BYTES_MAX = 1 << 20
# As numpy calls them, where the two differ.
_TYPES = {"object": "string", "str": "string", "bool_": "bool"}
_LOG_IT = (
    "log it as ONNX: mlflow.onnx.log_model(onnx_model, name='model', signature=..., "
    "save_as_external_data=False)."
)
_SIGN_IT = "log it with signature=mlflow.models.infer_signature(inputs, outputs), of numpy arrays."


class FlavourRefused(ReleaseRejected):
    """A model version that is no ONNX model in one file."""

    code = "E-MLFLOW-FLAVOUR"


class SignatureRefused(ReleaseRejected):
    """A model version without a signature, or with one that its model does not keep."""

    code = "E-MLFLOW-SIGNATURE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A tensor as the signature has it; a name it may lack."""

    name: str | None
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """``data`` is the file with the graph; the sides are None where there is no signature."""

    data: str
    onnx_version: str
    inputs: tuple[Spec, ...] | None
    outputs: tuple[Spec, ...] | None


class _PlainLoader(yaml.SafeLoader):
    """Without aliases: a few lines of them expand to gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def read_mlmodel(content: bytes, where: str) -> Logged:
    """
    Raises:
        SourceRefused: it is no such file. FlavourRefused: it has no ONNX flavour.
        SignatureRefused: the signature is not of tensors.
    """
    try:
        found = yaml.load(content.decode(), Loader=_PlainLoader)  # noqa: S506 - a SafeLoader
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise _no_mlmodel(where) from error
    flavours = found.get("flavors") if isinstance(found, dict) else None
    if not isinstance(flavours, dict):
        raise _no_mlmodel(where)
    onnx = flavours.get("onnx")
    if not isinstance(onnx, dict):
        names = ", ".join(sorted(str(name)[:40] for name in flavours)[:8]) or "none"
        raise FlavourRefused(f"{where} has no ONNX flavour; it has {names}.", next_step=_LOG_IT)
    data = onnx.get("data")
    if not isinstance(data, str) or not data.endswith(".onnx"):
        raise FlavourRefused(f"The ONNX flavour of {where} names no .onnx file.", next_step=_LOG_IT)
    signature = found.get("signature")
    inputs = outputs = None
    if isinstance(signature, dict):
        inputs = _side(signature.get("inputs"), where)
        outputs = _side(signature.get("outputs"), where)
    return Logged(
        data=data,
        onnx_version=str(onnx.get("onnx_version", ""))[:40],
        inputs=inputs,
        outputs=outputs,
    )


def refuse_unfit(logged: Logged, model: Interface, where: str, *, required: bool) -> None:
    """The signature is a promise to whoever logged it; the graph must keep it.

    Raises:
        SignatureRefused
    """
    if logged.inputs is None or logged.outputs is None:
        if required:
            raise SignatureRefused(
                f"{where} has no signature of its inputs and outputs.", next_step=_SIGN_IT
            )
        return
    for side, promised, has in (
        ("inputs", logged.inputs, model.inputs),
        ("outputs", logged.outputs, model.outputs),
    ):
        if (problem := _difference(promised, has)) is not None:
            raise SignatureRefused(
                f"The signature of {where} is not that of its ONNX model: {side}: {problem}.",
                next_step=_SIGN_IT,
            )


def _difference(promised: tuple[Spec, ...], has: tuple[Tensor, ...]) -> str | None:
    if len(promised) != len(has):
        return f"{len(promised)} in the signature, {len(has)} in the model"
    named = {tensor.name: tensor for tensor in has}
    for spec in promised:
        # A single tensor may go without a name in MLflow.
        tensor = named.get(spec.name) if spec.name is not None else has[0]
        if tensor is None or (spec.name is None and len(has) > 1):
            return f"the model has no {str(spec.name)[:80]!r}; it has {', '.join(named)[:200]}"
        if spec.dtype != tensor.dtype:
            return (
                f"{tensor.name} is {spec.dtype[:40]} in the signature, {tensor.dtype} in the model"
            )
        if not _fits(spec.shape, tensor.shape):
            return (
                f"{tensor.name} has the shape {list(spec.shape)} in the signature, "
                f"{list(tensor.shape)} in the model"
            )
    return None


def _fits(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) and all(
        a == b or -1 in (a, b) for a, b in zip(one, other, strict=True)
    )


def _side(text: object, where: str) -> tuple[Spec, ...] | None:
    if text is None:
        return None
    try:
        entries = json.loads(str(text))
        return tuple(_spec(entry) for entry in entries)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SignatureRefused(
            f"The signature of {where} is not one of tensors.", next_step=_SIGN_IT
        ) from error


def _spec(entry: dict[str, Any]) -> Spec:
    if entry["type"] != "tensor":
        raise ValueError("a column")
    about = entry["tensor-spec"]
    name, dtype = entry.get("name"), str(about["dtype"])
    shape = tuple(int(size) for size in about["shape"])
    return Spec(
        name=None if name is None else str(name), dtype=_TYPES.get(dtype, dtype), shape=shape
    )


def _no_mlmodel(where: str) -> SourceRefused:
    return SourceRefused(
        f"The file {MLMODEL} of {where} is none of MLflow's.", next_step="log the model again."
    )
