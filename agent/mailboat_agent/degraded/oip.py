"""A request and its answer as the JSON of the Open Inference Protocol, from the asking side."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote

from mailboat_agent.serving.answering import BECAUSE_HEADER, DEGRADED_HEADER, Answered, Asked
from mailboat_agent.serving.json_tensors import tensor_of_json, tensor_to_json
from mailboat_agent.serving.tensors import OIP_OF_DOCUMENT, TENSORS_MAX, BadTensors, Tensor
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.errors import ReleaseRejected

RELEASE_HEADER = "mailboat-release"
IN_PLACE_BYTES_MAX = 64 << 10  # more JSON is written and read beside the event loop
_DIGEST_CHARS = 64

Result = TypeVar("Result")


async def aside(size_bytes: int, work: Callable[[], Result]) -> Result:
    """What ``work`` returns, beside the event loop where it may take a while."""
    return work() if size_bytes <= IN_PLACE_BYTES_MAX else await asyncio.to_thread(work)


def body_of(asked: Asked) -> bytes | None:
    """None for what JSON cannot say, such as text that is no UTF-8."""
    try:
        content: dict[str, Any] = {"inputs": [tensor_to_json(each) for each in asked.inputs]}
    except ReleaseRejected:
        return None
    if asked.outputs:
        content["outputs"] = [{"name": name} for name in asked.outputs]
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def path_of(asked: Asked) -> str:
    version = "" if asked.version is None else f"/versions/{quote(asked.version, safe='')}"
    return f"v2/models/{asked.model}{version}/infer"


def answer_of(asked: Asked, headers: dict[str, str], body: bytes, interface: Interface) -> Answered:
    """What another endpoint answered, held against what callers of this model rely on.

    Raises:
        BadTensors: it is not an answer to that request, or one in a degraded mode.
    """
    if headers.get(DEGRADED_HEADER):
        raise BadTensors(f"It is degraded itself: {headers.get(BECAUSE_HEADER, '')[:100]}.")
    try:
        content = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadTensors("Its answer is not JSON.") from error
    outputs = content.get("outputs") if isinstance(content, dict) else None
    if not isinstance(outputs, list) or len(outputs) > TENSORS_MAX:
        raise BadTensors("Its answer has no 'outputs'.")
    version = content.get("model_version", "")
    if not isinstance(version, str) or asked.version not in (None, version):
        raise BadTensors("Its answer is of another version.")
    digest = headers.get(RELEASE_HEADER, "")
    is_digest = len(digest) == _DIGEST_CHARS and set(digest) <= set("0123456789abcdef")
    return Answered(
        model=asked.model,
        version=version[:64],
        digest=digest if is_digest else "",
        outputs=_chosen(asked, [tensor_of_json(each) for each in outputs], interface),
    )


def _chosen(asked: Asked, given: list[Tensor], interface: Interface) -> tuple[Tensor, ...]:
    """In the order of the request, or of the interface."""
    declared = {tensor.name: tensor for tensor in interface.outputs}
    by_name = {tensor.name: tensor for tensor in given}
    chosen = []
    for name in asked.outputs or declared:
        tensor, wanted = by_name.get(name), declared.get(name)
        if tensor is None or wanted is None:
            raise BadTensors(f"Its answer lacks the output {name[:128]!r}.")
        if tensor.datatype != OIP_OF_DOCUMENT[wanted.dtype] or not _fits(wanted.shape, tensor):
            raise BadTensors(f"Its output {name[:128]!r} is not what the interface declares.")
        chosen.append(tensor)
    return tuple(chosen)


def _fits(declared: tuple[int, ...], tensor: Tensor) -> bool:
    return len(declared) == len(tensor.shape) and all(
        wanted in (-1, size) for wanted, size in zip(declared, tensor.shape, strict=True)
    )


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
