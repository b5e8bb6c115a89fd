"""Which entries of the audit log the world is told of, and in which words: CloudEvents 1.0.

Final outcomes and failures, nothing on the way there: who subscribes wants to be woken for these.
The audit log is written in the transaction of what happened, in order and for good, so nothing is
missed, whatever crashes; and an event's id follows from its entry, so nothing is told twice under
two names.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mailboat_controller.store.audit import AuditRow
from mailboat_schemas.tracing import span_id, trace_id, traceparent

PREFIX = "io.mailboat."
TEST_TYPE = PREFIX + "webhook.test"

# What happened, by the audit log's word for it. docs/webhooks.md explains each.
TYPES: Mapping[str, str] = MappingProxyType(
    {
        "rollout.completed": PREFIX + "rollout.completed",
        "rollout.halted": PREFIX + "rollout.halted",
        "rollout.aborted": PREFIX + "rollout.aborted",
        "rollout.abort": PREFIX + "rollout.aborted",
        "rollout.superseded": PREFIX + "rollout.superseded",
        "submission.refuse": PREFIX + "submission.refused",
        "release.reject": PREFIX + "release.rejected",
        "release.withdraw": PREFIX + "release.withdrawn",
        "trust.refuse": PREFIX + "trust.refused",
        "trust.expiring": PREFIX + "trust.expiring",
        "device.flooding": PREFIX + "device.flooding",
        "device.doubled": PREFIX + "device.doubled",
        "device.revoke": PREFIX + "device.revoked",
        "artifact.damaged": PREFIX + "artifact.damaged",
        "webhook.disabled": PREFIX + "webhook.disabled",
    }
)
EVENT_TYPES = tuple(sorted({*TYPES.values(), TEST_TYPE}))


def type_of(row: AuditRow) -> str | None:
    """None: not a thing that anybody is told."""
    return TYPES.get(row.action)


def event_id(row: AuditRow) -> str:
    """Of the chain's hash, so that two controllers, or a restored one, never share an id."""
    return f"msg_{row.hash[:40]}"


def cloud_event(
    row: AuditRow, kind: str, *, fleet: str, release: Mapping[str, str] | None
) -> bytes:
    """The body, in structured mode.

    Args:
        release: model, version and digest of what it is about, where it is about one.
    """
    data: dict[str, Any] = {
        "fleet": fleet,
        "action": row.action,
        "actor": row.actor,
        "reason": row.reason,
        "details": dict(row.details),
        "audit_sequence": row.sequence,
    }
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": event_id(row),
        "source": f"/mailboat/{fleet}",
        "type": kind,
        "subject": row.subject,
        "time": row.at.isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": data,
    }
    if release is not None:
        data["release"] = dict(release)
        trace = trace_id(release["digest"])
        event["traceparent"] = traceparent(trace, span_id(trace, f"audit {row.sequence}"))
    return json.dumps(event, separators=(",", ":")).encode()
