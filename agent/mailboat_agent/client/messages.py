"""The body of a request, and what an answer says, as the protocol has them with binary tensors."""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .arrays import Array
from .errors import ClientError

JSON_BYTES_HEADER = "inference-header-content-length"


@dataclass(frozen=True)
class Answer:
    """``release`` is the digest of what answered; ``degraded`` says what stood in, None if nothing
    did and the answer is as it should be."""

    outputs: Mapping[str, Array]
    model: str
    version: str
    release: str | None
    degraded: str | None = None
    degraded_because: str | None = None
    request_id: str | None = None
    tries: int = field(default=1, compare=False)


def request_of(
    inputs: Mapping[str, Any], outputs: Sequence[str], request_id: str | None
) -> tuple[bytes, int]:
    arrays = {
        name: each if isinstance(each, Array) else Array.of_numpy(each)
        for name, each in inputs.items()
    }
    content: dict[str, Any] = {
        "inputs": [
            {
                "name": name,
                "datatype": array.datatype,
                "shape": list(array.shape),
                "parameters": {"binary_data_size": len(array.data)},
            }
            for name, array in arrays.items()
        ],
        "parameters": {"binary_data_output": True},
    }
    if outputs:
        content["outputs"] = [{"name": name} for name in outputs]
    if request_id is not None:
        content["id"] = request_id
    head = json.dumps(content, separators=(",", ":")).encode()
    return b"".join([head, *(array.data for array in arrays.values())]), len(head)


def answer_of(headers: Mapping[str, str], content: bytes, tries: int) -> Answer:
    """
    Raises:
        ClientError: it is no answer of the protocol.
    """
    try:
        return _answer_of(headers, content, tries)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ClientError(f"The answer is not of the protocol: {error!r}.") from error


def _answer_of(headers: Mapping[str, str], content: bytes, tries: int) -> Answer:
    announced = headers.get(JSON_BYTES_HEADER)
    end = len(content) if announced is None else int(announced)
    head = json.loads(content[:end])
    view = memoryview(content)[end:]
    outputs: dict[str, Array] = {}
    for each in head["outputs"]:
        datatype, shape = each["datatype"], tuple(each["shape"])
        size = each.get("parameters", {}).get("binary_data_size")
        if size is None:
            outputs[each["name"]] = Array.of(datatype, shape, each["data"])
        else:
            if not 0 <= size <= len(view):
                raise ValueError(f"{size} bytes are announced, {len(view)} are there")
            outputs[each["name"]] = Array(datatype, shape, view[:size])
            view = view[size:]
    return Answer(
        outputs=outputs,
        model=head["model_name"],
        version=head.get("model_version", ""),
        release=headers.get("mailboat-release"),
        degraded=headers.get("mailboat-degraded"),
        degraded_because=headers.get("mailboat-degraded-because"),
        request_id=head.get("id"),
        tries=tries,
    )
