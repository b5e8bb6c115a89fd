"""Write the published contract from the code: schemas, AsyncAPI, OpenAPI, the examples, and
the reference of every command.

``make schemas`` runs it; ``tests/contract`` proves that what is committed is what it would write.
"""

import base64
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mailboat_controller.api.app import make_app
from mailboat_controller.gitops.kinds import Hold, Pin, Site
from mailboat_schemas import examples
from mailboat_schemas.codec import encode
from mailboat_schemas.desired import DesiredState, FreshTimestamp, ManifestBundle
from mailboat_schemas.device_orders import DeviceDesired, LogExcerpt
from mailboat_schemas.documents import HardwareClass, ReleaseDocument, ReleaseSource, Rollout
from mailboat_schemas.documents.config import ConfigDocument
from mailboat_schemas.documents.policy import PolicyDocument
from mailboat_schemas.envelope import Envelope
from mailboat_schemas.events import EventBatch
from mailboat_schemas.reports import Ack, Hello, Presence, ReportedState, TelemetryBatch
from mailboat_schemas.site_orders import SiteOrder
from mailboat_schemas.submission import Submission, SubmissionReply
from mailboat_schemas.topics import TOPICS

HERE = Path(__file__).parent
PROTOCOL = HERE.parent / "protocol.md"
DOCUMENTS: dict[str, type[BaseModel]] = {
    "config": ConfigDocument,
    "hardware-class": HardwareClass,
    "hold": Hold,
    "policy": PolicyDocument,
    "pin": Pin,
    "release": ReleaseSource,
    "release-document": ReleaseDocument,
    "rollout": Rollout,
    "site": Site,
}
MESSAGES: tuple[type[BaseModel], ...] = (
    ManifestBundle,
    DesiredState,
    FreshTimestamp,
    Ack,
    Hello,
    ReportedState,
    EventBatch,
    TelemetryBatch,
    Presence,
    DeviceDesired,
    SiteOrder,
    LogExcerpt,
    Submission,
    SubmissionReply,
    Envelope,
)
_SIGNED = {
    "ReportedState",
    "EventBatch",
    "Hello",
    "TelemetryBatch",
    "Presence",
    "Ack",
    "DeviceDesired",
    "SiteOrder",
    "LogExcerpt",
}
_BEGIN, _END = "<!-- examples: begin -->", "<!-- examples: end -->"


def pages() -> Iterator[tuple[Path, str]]:
    """Every generated file with its content."""
    for name, document in DOCUMENTS.items():
        yield HERE / f"{name}.schema.json", _json(document.model_json_schema())
    yield HERE / "asyncapi.json", _json(asyncapi())
    yield HERE / "openapi.json", _json(make_app().openapi())
    text = PROTOCOL.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    yield PROTOCOL, f"{before}{_BEGIN}\n{protocol_examples()}{_END}{after}"
    yield from _command_lines()


def _command_lines() -> Iterator[tuple[Path, str]]:
    """The reference of every command, and its man pages."""
    sys.path.insert(0, str(HERE))  # it stands beside this file, which tests load by its path
    from command_reference import man, markdown

    yield HERE.parent / "cli-reference.md", markdown()
    for name in ("mailboat", "mailboat-agent"):
        yield HERE.parent / "man" / f"{name}.1", man(name)


def asyncapi() -> dict[str, Any]:
    """The MQTT side as AsyncAPI 3.0, from the topic table and the models."""
    channels, operations = {}, {}
    for channel, rule in TOPICS.items():
        names = re.findall(r"\{(\w+)\}", rule.template)
        known = rule.payload in {model.__name__ for model in MESSAGES}
        channels[channel.value] = {
            "address": rule.template,
            "description": rule.summary,
            "parameters": {name: {} for name in names},
            "messages": {
                rule.payload: {"$ref": f"#/components/messages/{rule.payload}"}
                if known
                else {"name": rule.payload, "payload": {"type": "object"}}
            },
        }
        operations[f"{rule.sender}-{channel.value}"] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{channel.value}"},
            "summary": f"Sent by {rule.sender}. {rule.summary}",
            "bindings": {
                "mqtt": {"qos": rule.qos, "retain": rule.retain, "bindingVersion": "0.2.0"}
            },
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Mailboat over MQTT",
            "version": "1",
            "description": "Payloads are msgpack, zstd-compressed above 1 KiB; see protocol.md.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/vnd.msgpack",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {
                model.__name__: {
                    "name": model.__name__,
                    "summary": (model.__doc__ or model.__name__).strip().splitlines()[0],
                    "contentType": "application/json"
                    if model is SubmissionReply
                    else "application/vnd.msgpack",
                    "payload": {"$ref": f"#/components/schemas/{model.__name__}"},
                }
                for model in MESSAGES
            },
            "schemas": _component_schemas(),
        },
    }


def _component_schemas() -> dict[str, Any]:
    schemas: dict[str, Any] = {}
    for model in MESSAGES:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    return dict(sorted(schemas.items()))


def protocol_examples() -> str:
    parts = []
    for name, example in examples.EXAMPLES.items():
        note = " It travels inside an Envelope." if name in _SIGNED | {"DesiredState"} else ""
        summary = (type(example).__doc__ or name).strip().splitlines()[0]
        readable = json.dumps(_readable(example.model_dump(mode="python")), indent=1)
        wire = base64.encodebytes(encode(example)).decode()
        parts.append(
            f"### {name}\n\n{summary}{note}\n\n```json\n{readable}\n```\n\n"
            f"On the wire, in base64:\n\n```base64 {name}\n{wire}```\n"
        )
    reply = examples.SUBMISSION_REPLY
    parts.append(
        "### SubmissionReply\n\nJSON as it stands.\n\n"
        f"```json SubmissionReply\n{reply.model_dump_json(indent=1)}\n```\n"
    )
    return "\n".join(parts)


def _readable(value: Any) -> Any:
    """Bytes as text where they are text, else as their size: this copy is for people."""
    if isinstance(value, bytes):
        text = value.decode("ascii", "replace")
        return text if text.isprintable() and value.isascii() else f"{len(value)} bytes"
    if isinstance(value, dict):
        return {key: _readable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_readable(each) for each in value]
    return value


def _json(content: object) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def main() -> int:
    for path, content in pages():
        path.write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
