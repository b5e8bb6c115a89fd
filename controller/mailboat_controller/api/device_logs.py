"""A device's own log: asked for by an operator, read when the device has answered."""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel, Field

from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Operator
from mailboat_controller.api.limits import NUMBER_MAX, Reason
from mailboat_controller.store import devices, log_requests
from mailboat_controller.store.log_requests import LogRequestRow
from mailboat_schemas.device_orders import FOLLOW_SECONDS_MAX, LogLine, RequestId
from mailboat_schemas.names import DeviceId

REQUEST_BYTES = 8
HOURS_MAX = 7 * 24
LINES_PER_PAGE_MAX = 1000

router = APIRouter(prefix="/v1/devices", tags=["devices"])


class LogOrder(BaseModel):
    reason: Reason
    since: AwareDatetime | None = Field(default=None, description="by the device's clock")
    follow_seconds: int = Field(default=0, ge=0, le=FOLLOW_SECONDS_MAX)
    hours: float = Field(
        default=24, gt=0, le=HOURS_MAX, description="that a device which is away may take"
    )


class LogStanding(BaseModel):
    """``state`` is waiting, answering, complete or expired."""

    request: str
    device: str
    state: str
    asked_by: str
    reason: str
    asked_at: datetime
    expires_at: datetime
    answered_at: datetime | None
    completed_at: datetime | None
    lines: int
    withheld: int  # lines that were too many for the device to keep


class LogLines(LogStanding):
    """A page of lines, in the device's order; times are the device's."""

    page: list[LogLine]


@router.post("/{device}/logs", status_code=201)
def ask_for_logs(
    device: DeviceId, order: LogOrder, operator: Operator, context: Context
) -> LogStanding:
    """Ask a device for its log. It answers at once or when it comes back."""
    row = context.log_orders.ask(
        device,
        secrets.token_hex(REQUEST_BYTES),
        actor=str(operator),
        reason=order.reason,
        since=order.since,
        follow_seconds=order.follow_seconds,
        valid=timedelta(hours=order.hours),
    )
    return LogStanding(**_standing(row, context.now()))


@router.get("/{device}/logs")
def list_log_requests(
    device: DeviceId, _operator: Operator, context: Context
) -> Sequence[LogStanding]:
    """What the device was asked for, the newest first."""
    with context.store.read() as tx:
        devices.get(tx, device)
        rows = log_requests.of_device(tx, device)
    return [LogStanding(**_standing(row, context.now())) for row in rows]


@router.get("/{device}/logs/{request}")
def read_logs(
    device: DeviceId,
    request: RequestId,
    _operator: Operator,
    context: Context,
    after: Annotated[int, Query(ge=0, le=NUMBER_MAX, description="a line's number")] = 0,
    limit: Annotated[int, Query(ge=1, le=LINES_PER_PAGE_MAX)] = 500,
) -> LogLines:
    """What has come so far, those with a number above ``after``."""
    with context.store.read() as tx:
        row = log_requests.get(tx, device, request)
        lines = log_requests.lines_after(tx, request, after, limit)
    return LogLines(**_standing(row, context.now()), page=list(lines))


def _standing(row: LogRequestRow, now: datetime) -> dict[str, object]:
    return {name: getattr(row, name) for name in LogStanding.model_fields if name != "state"} | {
        "state": row.state(now)
    }
