"""Messages from the broker that could not be taken: which, from whom, and why."""

import base64
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field, StringConstraints

from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Operator, Reader
from mailboat_controller.api.limits import NUMBER_MAX
from mailboat_controller.api.pages import tell_next
from mailboat_controller.store import quarantine
from mailboat_controller.store.quarantine import Kept
from mailboat_schemas.names import DeviceId

PAGE_ROWS_MAX = 500

router = APIRouter(prefix="/v1/quarantine", tags=["quarantine"])

Code = Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9-]*$")]


class QuarantinedMessage(BaseModel):
    id: int
    received_at: datetime
    topic: str = Field(description="as it came; anybody may have invented it")
    code: str
    problem: str
    kept_bytes: int = Field(
        description=f"of its payload; of a longer one the first {quarantine.PAYLOAD_KEPT_BYTES_MAX}"
    )


class QuarantinedPayload(QuarantinedMessage):
    payload_base64: str


@router.get("")
def list_quarantined(
    _reader: Reader,
    context: Context,
    request: Request,
    response: Response,
    before: Annotated[int, Query(ge=1, le=NUMBER_MAX, description="the newest below this")] = (
        NUMBER_MAX
    ),
    limit: Annotated[int, Query(ge=1, le=PAGE_ROWS_MAX)] = 100,
    code: Code = "",
    device: Annotated[DeviceId | None, Query(description="whose topic it came on")] = None,
) -> list[QuarantinedMessage]:
    """The newest messages that were set aside, the oldest of them first."""
    with context.store.read() as tx:
        found = quarantine.newest_page(
            tx, before=before, limit=limit + 1, code=code or None, device=device
        )
    rows = found[-limit:]
    if len(found) > limit:
        tell_next(request, response, before=rows[0].id)
    return [QuarantinedMessage(**_told(row)) for row in rows]


@router.get("/{id}")
def get_quarantined(
    id: Annotated[int, Path(ge=1, le=NUMBER_MAX)],  # noqa: A002  as the list calls it
    _operator: Operator,
    context: Context,
) -> QuarantinedPayload:
    """One message with what is kept of its payload, which a stranger may have written."""
    with context.store.read() as tx:
        row = quarantine.get(tx, id)
    payload = base64.b64encode(row.payload).decode()
    return QuarantinedPayload(**_told(row), payload_base64=payload)


def _told(row: Kept) -> dict[str, object]:
    return {
        "id": row.id,
        "received_at": row.received_at,
        "topic": row.topic,
        "code": row.code,
        "problem": row.problem,
        "kept_bytes": len(row.payload),
    }
