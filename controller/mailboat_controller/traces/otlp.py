"""Spans in OpenTelemetry's wire form: OTLP/HTTP with JSON (opentelemetry-proto 1.x, "JSON Protobuf
encoding": ids in hex, 64-bit numbers as text, names in lowerCamelCase).

Written by hand, forty lines, because the SDK would bring threads, a configuration of its own and
protobuf for one kind of message (ADR 0018). Pure.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Any

SCOPE = "mailboat"
_KIND_INTERNAL = 1
_STATUS_ERROR = 2
_EPOCH_NS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """``ends`` is ``begins`` for what happens in an instant."""

    trace: str
    span: str
    parent: str  # empty: the root
    name: str
    begins: datetime
    ends: datetime
    attributes: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    problem: str = ""


def export_request(spans: Iterable[Span], *, fleet: str) -> bytes:
    """The body of ``POST /v1/traces``: one resource, the controller."""
    resource = {
        "service.name": "mailboat-controller",
        "service.version": version("mailboat"),
        "service.namespace": fleet,
    }
    content = {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource)},
                "scopeSpans": [
                    {"scope": {"name": SCOPE}, "spans": [_span(each) for each in spans]}
                ],
            }
        ]
    }
    return json.dumps(content, separators=(",", ":")).encode()


def _span(span: Span) -> dict[str, Any]:
    said: dict[str, Any] = {
        "traceId": span.trace,
        "spanId": span.span,
        "name": span.name,
        "kind": _KIND_INTERNAL,
        "startTimeUnixNano": _nanoseconds(span.begins),
        "endTimeUnixNano": _nanoseconds(max(span.begins, span.ends)),
        "attributes": _attributes(span.attributes),
    }
    if span.parent:
        said["parentSpanId"] = span.parent
    if span.problem:
        said["status"] = {"code": _STATUS_ERROR, "message": span.problem}
    return said


def _nanoseconds(instant: datetime) -> str:
    microseconds = (instant - datetime.fromtimestamp(0, instant.tzinfo)) // timedelta(
        microseconds=1
    )
    return str(microseconds * _EPOCH_NS)


def _attributes(values: Mapping[str, str | int | float | bool]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in values.items()]


def _value(value: str | float | bool) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case str():
            return {"stringValue": value}
