"""A request and its answer in the Open Inference Protocol, from the asking side: in JSON, or with
tensors as bytes behind it for who can read that."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote

from mailboat_agent.serving.answering import BECAUSE_HEADER, DEGRADED_HEADER, Answered, Asked
from mailboat_agent.serving.json_tensors import BinaryPart, json_of_tensor, tensor_of_json
from mailboat_agent.serving.protocol import announcement, dump
from mailboat_agent.serving.tensors import OIP_OF_DOCUMENT, TENSORS_MAX, BadTensors, Tensor
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.errors import ReleaseRejected

ABOUT_PATH = "v2"  # where a server says which extensions it speaks
BINARY_EXTENSION = "binary_tensor_data"
JSON_BYTES_HEADER = "inference-header-content-length"
RELEASE_HEADER = "mailboat-release"
IN_PLACE_BYTES_MAX = 64 << 10  # more JSON is written and read beside the event loop
_DIGEST_CHARS = 64
_DIGITS_MAX = 9

Result = TypeVar("Result")


async def aside(size_bytes: int, work: Callable[[], Result]) -> Result:
    """What ``work`` returns, beside the event loop where it may take a while."""
    return work() if size_bytes <= IN_PLACE_BYTES_MAX else await asyncio.to_thread(work)


@dataclass(frozen=True, slots=True)
class Message:
    body: bytes
    headers: Mapping[str, str]


class Question:
    """One request for several endpoints, written down at most once each way."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._written: dict[bool, Message | None] = {}

    async def written(self, binary: bool) -> Message | None:
        """None for what JSON cannot say, such as NaN, or text that is no UTF-8."""
        if binary not in self._written:
            write = self._in_binary if binary else self._in_json
            self._written[binary] = await aside(self._asked.input_bytes, write)
        return self._written[binary]

    def _in_json(self) -> Message | None:
        try:
            inputs = [json_of_tensor(each) for each in self._asked.inputs]
        except ReleaseRejected:
            return None
        return Message(self._head(inputs, {}), {"content-type": "application/json"})

    def _in_binary(self) -> Message:
        tensors = self._asked.inputs
        more = {"parameters": {"binary_data_output": True}}
        head = self._head([announcement(each) for each in tensors], more)
        headers = {"content-type": "application/octet-stream", JSON_BYTES_HEADER: str(len(head))}
        return Message(b"".join([head, *(each.data for each in tensors)]), headers)

    def _head(self, inputs: list[bytes], more: dict[str, Any]) -> bytes:
        if self._asked.outputs:
            more = {**more, "outputs": [{"name": name} for name in self._asked.outputs]}
        rest = b"," + dump(more)[1:] if more else b"}"
        return b"".join([b'{"inputs":[', b",".join(inputs), b"]", rest])


def speaks_binary(body: bytes) -> bool:
    """Whether a server that tells this of itself takes and gives tensors as bytes."""
    try:
        about = json.loads(body)
    except (ValueError, RecursionError):
        return False
    extensions = about.get("extensions") if isinstance(about, dict) else None
    return isinstance(extensions, list) and BINARY_EXTENSION in extensions


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
    announced = headers.get(JSON_BYTES_HEADER, str(len(body)))
    if not announced.isascii() or not announced.isdigit() or len(announced) > _DIGITS_MAX:
        raise BadTensors("Its answer does not say how much of it is JSON.")
    json_bytes = int(announced)
    try:
        content = json.loads(body[:json_bytes], parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadTensors("Its answer is not JSON.") from error
    binary = BinaryPart(memoryview(body)[json_bytes:])
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
        outputs=_chosen(asked, [tensor_of_json(each, binary) for each in outputs], interface),
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
