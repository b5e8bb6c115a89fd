"""Open Inference Protocol v2: what a request says and what an answer looks like.

A request is JSON, or JSON followed by the bytes of its tensors; so is its answer.

Source: Open Inference Protocol v2, "Inference"; Triton's extensions "Binary Tensor Data",
"Parameters", "Schedule Policy" (priority and timeout).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pydantic_core

from mailboat_agent.serving.json_tensors import BinaryPart, json_of_tensor, tensor_of_json
from mailboat_agent.serving.process import Description
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.tensors import (
    NAME_CHARS_MAX,
    OIP_OF_DOCUMENT,
    TENSORS_MAX,
    BadTensors,
    Buffer,
    Tensor,
)
from mailboat_schemas.documents.interface import Tensor as DeclaredTensor
from mailboat_schemas.documents.serving_policy import Workload

REQUEST_ID_CHARS_MAX = 256
TIMEOUT_MICROSECONDS_MAX = (1 << 64) - 1  # as Triton has it; a larger number may be no float
EXTENSIONS = (
    "binary_tensor_data",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
_REAL_TIME_PRIORITY = 1  # as Triton's: 0 does not say, 1 is the most urgent


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    request_id: str | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] = ()  # empty means all
    binary_outputs: frozenset[str] = frozenset()
    json_outputs: frozenset[str] = frozenset()
    binary_by_default: bool = False
    timeout_seconds: float | None = None
    workload: Workload | None = None

    def wants_binary(self, output: str) -> bool:
        if output in self.binary_outputs:
            return True
        return self.binary_by_default and output not in self.json_outputs


@dataclass(frozen=True, slots=True)
class InferenceAnswer:
    """``json_bytes`` is None where no tensor follows the JSON."""

    body: tuple[Buffer, ...]
    json_bytes: int | None


# Made once: `json.dumps` makes a new one for every call with options.
_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def parse_request(body: Buffer, json_bytes: int | None = None) -> InferenceRequest:
    """Read the body of an inference request, whose tensors may be views of it.

    Args:
        json_bytes: how much of the body is JSON, what follows are binary tensors; None is all.

    Raises:
        BadTensors: not JSON, or not a request; says where.
    """
    view = memoryview(body)
    if json_bytes is not None and json_bytes > len(view):
        raise BadTensors(f"The JSON is announced with {json_bytes} bytes of {len(view)}.")
    content = _object(view if json_bytes is None else view[:json_bytes])
    request_id = content.get("id")
    if request_id is not None and (
        not isinstance(request_id, str) or len(request_id) > REQUEST_ID_CHARS_MAX
    ):
        raise BadTensors(f"'id' is text of at most {REQUEST_ID_CHARS_MAX} characters.")
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or not 1 <= len(inputs) <= TENSORS_MAX:
        raise BadTensors(f"'inputs' is an array of 1 to {TENSORS_MAX} tensors.")
    binary = BinaryPart(view[len(view) :] if json_bytes is None else view[json_bytes:])
    tensors = tuple(tensor_of_json(item, binary) for item in inputs)
    if binary.left_bytes:
        raise BadTensors(f"{binary.left_bytes} bytes follow the tensors that were announced.")
    parameters = _parameters("the request", content.get("parameters"))
    if parameters.get("sequence_id"):  # 0 and "" say that it is part of none
        raise BadTensors("The request is part of a sequence, which no model here remembers.")
    outputs = _Outputs.read(content.get("outputs"))
    return InferenceRequest(
        request_id,
        tensors,
        outputs=tuple(outputs.names),
        binary_outputs=frozenset(outputs.binary),
        json_outputs=frozenset(outputs.json),
        binary_by_default=parameters.get("binary_data_output") is True,
        timeout_seconds=_timeout_seconds(parameters),
        workload=_workload(parameters),
    )


def _object(text: memoryview) -> dict[str, Any]:
    try:
        # Ten times as fast as `json` on a tensor's numbers, and pydantic brings it anyway.
        content = pydantic_core.from_json(bytes(text), allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise BadTensors(f"The body is not JSON: {str(error)[:200]}.") from error
    if not isinstance(content, dict):
        raise BadTensors("The body is a JSON object with 'inputs'.")
    return content


def _parameters(whose: str, parameters: object) -> dict[str, Any]:
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise BadTensors(f"The 'parameters' of {whose} are not an object.")
    return parameters


def _timeout_seconds(parameters: Mapping[str, Any]) -> float | None:
    """Microseconds in the protocol; 0 does not say."""
    timeout = parameters.get("timeout")
    if timeout is None:
        return None
    if type(timeout) is not int or not 0 <= timeout <= TIMEOUT_MICROSECONDS_MAX:
        raise BadTensors("The parameter 'timeout' is a number of microseconds, of 64 bits.")
    return timeout / 1e6 if timeout else None


def _workload(parameters: Mapping[str, Any]) -> Workload | None:
    priority = parameters.get("priority")
    if priority is None or priority == 0:
        return None
    if type(priority) is not int or priority < 0:
        raise BadTensors("The parameter 'priority' is 1 for real time, or a larger number.")
    return Workload.REAL_TIME if priority == _REAL_TIME_PRIORITY else Workload.BATCH


@dataclass(slots=True)
class _Outputs:
    names: list[str] = field(default_factory=list)
    binary: set[str] = field(default_factory=set)
    json: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, outputs: object) -> "_Outputs":
        asked = cls()
        if outputs is None:
            return asked
        if not isinstance(outputs, list) or len(outputs) > TENSORS_MAX:
            raise BadTensors(f"'outputs' is an array of at most {TENSORS_MAX} objects.")
        for item in outputs:
            name = item.get("name") if isinstance(item, dict) else None
            if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARS_MAX:
                raise BadTensors(
                    "Each entry of 'outputs' is an object with a 'name' of 1 to "
                    f"{NAME_CHARS_MAX} characters."
                )
            asked._add(name, _parameters(f"output {name!r}", item.get("parameters")))
        return asked

    def _add(self, name: str, parameters: Mapping[str, Any]) -> None:
        for unknown in ("classification", "shared_memory_region"):
            if parameters.get(unknown):
                raise BadTensors(f"Output {name!r} is asked for as {unknown!r}, not possible here.")
        self.names.append(name)
        if "binary_data" in parameters:
            (self.binary if parameters["binary_data"] is True else self.json).add(name)


def inference_answer(
    *,
    model: str,
    version: str,
    outputs: tuple[Tensor, ...],
    request: InferenceRequest,
    parameters: Mapping[str, str],
) -> InferenceAnswer:
    """The body of an answer: binary where it was asked for, without a copy of the tensors.

    Raises:
        NonFiniteOutput: the model's fault.
    """
    content: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.request_id is not None:
        content["id"] = request.request_id
    if parameters:
        content["parameters"] = dict(parameters)
    behind: list[Buffer] = []
    entries: list[bytes] = []
    for tensor in outputs:
        if request.wants_binary(tensor.name):
            behind.append(tensor.data)
            entries.append(announcement(tensor))
        else:
            entries.append(json_of_tensor(tensor))
    head = b"".join([dump(content)[:-1], b',"outputs":[', b",".join(entries), b"]}"])
    return InferenceAnswer((head, *behind), len(head) if behind else None)


def announcement(tensor: Tensor) -> bytes:
    """JSON of a tensor whose bytes follow."""
    return dump(
        {
            "name": tensor.name,
            "shape": tensor.shape,
            "datatype": tensor.datatype,
            "parameters": {"binary_data_size": len(tensor.data)},
        }
    )


def model_metadata(
    release: ServedRelease, session: Description, *, in_shadow: str | None
) -> dict[str, Any]:
    """``versions`` are those that answer callers, which a candidate in shadow does not."""
    parameters = {"release": release.digest, "providers": list(session.providers)}
    if in_shadow is not None:
        parameters["version_in_shadow"] = in_shadow
    return {
        "name": release.model,
        "versions": [release.version],
        "platform": "onnxruntime_onnx",
        "inputs": [_declared(tensor) for tensor in release.interface.inputs],
        "outputs": [_declared(tensor) for tensor in release.interface.outputs],
        "parameters": parameters,
    }


def _declared(tensor: DeclaredTensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "datatype": OIP_OF_DOCUMENT[tensor.dtype],
        "shape": list(tensor.shape),
    }


def dump(content: Any) -> bytes:
    return _encoder.encode(content).encode()
