"""What a caller says of a request beside its tensors: until when, how urgent, how far it came."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mailboat_agent.serving.answering import HOPS_HEADER
from mailboat_agent.serving.front.answers import Problem
from mailboat_schemas.documents.serving_policy import Workload

DEADLINE_HEADER = "mailboat-deadline-ms"  # from the request's arrival; over the bound is the bound
WORKLOAD_HEADER = "mailboat-workload"
JSON_BYTES_HEADER = "inference-header-content-length"
HOPS_MAX = 16
_JSON_BYTES_DIGITS_MAX = 9


@dataclass(frozen=True, slots=True)
class Options:
    """``workload`` None leaves it to the release; ``json_bytes`` None says that all is JSON."""

    deadline_seconds: float | None = None
    workload: Workload | None = None
    json_bytes: int | None = None
    hops: int = 0


def read_options(headers: Mapping[str, str]) -> Options:
    """
    Raises:
        Problem: a header does not say what it should.
    """
    return Options(
        deadline_seconds=_deadline_seconds(headers.get(DEADLINE_HEADER)),
        workload=_workload(headers.get(WORKLOAD_HEADER)),
        json_bytes=_json_bytes(headers.get(JSON_BYTES_HEADER)),
        hops=_hops(headers.get(HOPS_HEADER)),
    )


def _deadline_seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = math.nan
    if not (math.isfinite(milliseconds) and milliseconds > 0):
        raise Problem(400, f"The header {DEADLINE_HEADER} is a number of milliseconds above 0.")
    return milliseconds / 1000


def _workload(text: str | None) -> Workload | None:
    if text is None:
        return None
    try:
        return Workload(text.strip().lower())
    except ValueError:
        known = " or ".join(Workload)
        raise Problem(400, f"The header {WORKLOAD_HEADER} is {known}.") from None


def _json_bytes(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _JSON_BYTES_DIGITS_MAX):
        raise Problem(400, "The header Inference-Header-Content-Length is not a number of bytes.")
    return int(text)


def _hops(text: str | None) -> int:
    """What cannot be read came far enough: handing it on could go in circles."""
    if text is None:
        return 0
    return int(text) if text.isascii() and text.isdigit() and len(text) < 3 else HOPS_MAX
