"""What is sent back, and which HTTP status an error of ours is.

Status: 400 the request, 403 what a device does not do when asked, 404 the model or version, 405 the
method, 408 a request that does not come, 409 feedback on nobody knows which answer, 413 its size,
415 its encoding, 431 its headers, 500 the model's fault, 503 with Retry-After try again, 504 the
deadline.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mailboat_agent.serving.admission import DeadlinePassed
from mailboat_agent.serving.feedback import FeedbackRefused, FeedbackUnattributed
from mailboat_agent.serving.not_served import ModelNotServed
from mailboat_agent.serving.process import WorkerHung
from mailboat_agent.serving.protocol import dump
from mailboat_agent.serving.tensors import BadTensors, Buffer
from mailboat_schemas.errors import MailboatError, Transient

_JSON: Mapping[str, str] = MappingProxyType({"content-type": "application/json"})
_RETRY_SECONDS = 1  # where an error does not say when


@dataclass(frozen=True, slots=True)
class Response:
    """``body`` is in parts that are sent one after the other, so that tensors are not joined."""

    status: int
    body: tuple[Buffer, ...]
    headers: Mapping[str, str] = field(default_factory=dict)
    close: bool = False  # the request was not read to its end

    @property
    def body_bytes(self) -> int:
        return sum(len(part) for part in self.body)


class Problem(Exception):
    """Answered with this status and the protocol's error object."""

    def __init__(self, status: int, what: str, headers: Mapping[str, str] = _JSON) -> None:
        super().__init__(what)
        self.response = json_response({"error": what}, status=status, headers=headers)


def json_response(
    content: Any, *, status: int = 200, headers: Mapping[str, str] = _JSON
) -> Response:
    return Response(status, (dump(content),), {**_JSON, **headers})


def problem_of(error: MailboatError) -> Problem:
    """The answer to a request that ended with this error. It tells the next step."""
    what = str(error)
    match error:
        case BadTensors() | FeedbackRefused():
            return Problem(400, what)
        case FeedbackUnattributed():
            return Problem(409, what)
        case ModelNotServed():
            return Problem(404, what)
        case DeadlinePassed() | WorkerHung():
            return Problem(504, what)
        case Transient():  # a full queue, a worker that died or is being started
            return Problem(503, what, {"retry-after": str(retry_seconds(error))})
    return Problem(500, what)


def retry_seconds(error: Transient) -> int:
    if error.retry_after is None:
        return _RETRY_SECONDS
    return max(1, math.ceil(error.retry_after.total_seconds()))
