"""Open Inference Protocol v2 as JSON: what a request says and what an answer looks like."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from mailboat_agent.serving.lane import ServedRelease
from mailboat_agent.serving.process import Description, Inference
from mailboat_agent.serving.tensors import (
    OIP_OF_DOCUMENT,
    TENSORS_MAX,
    BadTensors,
    Tensor,
    tensor_of_json,
    tensor_to_json,
)
from mailboat_schemas.documents.interface import Tensor as DeclaredTensor

REQUEST_ID_CHARS_MAX = 256


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    request_id: str | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]  # empty means all


def parse_request(body: bytes) -> InferenceRequest:
    """Read the body of an inference request.

    Raises:
        BadTensors: not JSON, or not a request; says where.
    """
    try:
        content = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadTensors(f"The body is not JSON: {str(error)[:200]}.") from error
    if not isinstance(content, dict):
        raise BadTensors("The body is a JSON object with 'inputs'.")
    request_id = content.get("id")
    if request_id is not None and (
        not isinstance(request_id, str) or len(request_id) > REQUEST_ID_CHARS_MAX
    ):
        raise BadTensors(f"'id' is text of at most {REQUEST_ID_CHARS_MAX} characters.")
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or not 1 <= len(inputs) <= TENSORS_MAX:
        raise BadTensors(f"'inputs' is an array of 1 to {TENSORS_MAX} tensors.")
    tensors = tuple(tensor_of_json(item) for item in inputs)
    return InferenceRequest(request_id, tensors, _output_names(content.get("outputs")))


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _output_names(outputs: object) -> tuple[str, ...]:
    if outputs is None:
        return ()
    if not isinstance(outputs, list) or len(outputs) > TENSORS_MAX:
        raise BadTensors(f"'outputs' is an array of at most {TENSORS_MAX} objects.")
    names = []
    for item in outputs:
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str):
            raise BadTensors("Each entry of 'outputs' is an object with a 'name'.")
        parameters = item.get("parameters")
        if isinstance(parameters, dict) and parameters.get("binary_data"):
            raise BadTensors(f"Output {name!r} is asked for as binary; only JSON is possible.")
        names.append(name)
    return tuple(names)


def inference_response(
    release: ServedRelease, inference: Inference, request_id: str | None
) -> bytes:
    """The body of an answer.

    Raises:
        NonFiniteOutput: the model's fault.
    """
    content: dict[str, Any] = {"model_name": release.model, "model_version": release.version}
    if request_id is not None:
        content["id"] = request_id
    content["outputs"] = [tensor_to_json(tensor) for tensor in inference.outputs]
    return dump(content)


def model_metadata(release: ServedRelease, session: Description) -> dict[str, Any]:
    return {
        "name": release.model,
        "versions": [release.version],
        "platform": "onnxruntime_onnx",
        "inputs": [_declared(tensor) for tensor in release.interface.inputs],
        "outputs": [_declared(tensor) for tensor in release.interface.outputs],
        "parameters": {"release": release.digest, "providers": list(session.providers)},
    }


def _declared(tensor: DeclaredTensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "datatype": OIP_OF_DOCUMENT[tensor.dtype],
        "shape": list(tensor.shape),
    }


def dump(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
