"""Ordering rollback drills and reading how they ended."""

import secrets
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Operator, Reader
from mailboat_controller.api.limits import PRINTED
from mailboat_controller.api.overrides import OrderReason
from mailboat_controller.api.pages import first_of
from mailboat_controller.store import devices, drills
from mailboat_controller.store.drills import DrillOrderRow, DrillResultRow
from mailboat_schemas.drills import DrillOutcome
from mailboat_schemas.names import DeviceId, ModelName

ORDER_BYTES = 8
HOURS_MAX = 7 * 24  # a drill of a state that was a week ago answers nobody's question
PAGE_MAX = 1000

router = APIRouter(prefix="/v1", tags=["drills"])


class DrillWish(BaseModel):
    reason: OrderReason
    model: ModelName | None = Field(default=None, description="none: every model")
    hours: float = Field(
        default=24, gt=0, le=HOURS_MAX, description="until a device that has not drilled skips it"
    )


class DrillEnd(BaseModel):
    reason: OrderReason


class DrillOrder(BaseModel):
    """``state`` is waiting, answered or expired; an order for every model waits until it expires,
    and its results tell how far it is."""

    order: str
    device: str
    model: str | None
    state: str
    by: str
    reason: str
    at: datetime
    expires_at: datetime
    answered_at: datetime | None


class DrillResult(BaseModel):
    """The newest of one model on one device. ``order`` begins with due- or local- where the
    schedule or somebody at the device asked."""

    device: str
    model: str
    order: str
    outcome: str
    code: str
    because: str
    version: str | None = Field(description="the release that was drilled")
    serving_version: str | None
    told_at: datetime
    passed_at: datetime | None
    return_ms: float | None = Field(description="that a return would take, of the last that passed")


class DeviceDrills(BaseModel):
    device: str
    orders: list[DrillOrder]
    results: list[DrillResult]


@router.post("/devices/{device}/drill", status_code=201)
def start_drill(
    device: DeviceId, wish: DrillWish, operator: Operator, context: Context
) -> DrillOrder:
    """Have a device prove that it could go back. Nobody is answered by what it drills."""
    row = context.overrides.drills.start(
        device,
        secrets.token_hex(ORDER_BYTES),
        wish.model,
        actor=str(operator),
        reason=wish.reason,
        valid=timedelta(hours=wish.hours),
    )
    return _ordered(row, context.now())


@router.post("/devices/{device}/cancel-drill")
def cancel_drills(
    device: DeviceId, end: DrillEnd, operator: Operator, context: Context
) -> DeviceDrills:
    """Take back what waits for a device; one that runs is given up."""
    context.overrides.drills.cancel(device, actor=str(operator), reason=end.reason)
    return _of(device, context)


@router.get("/devices/{device}/drills")
def show_drills(device: DeviceId, _reader: Reader, context: Context) -> DeviceDrills:
    """What was ordered of a device, and the newest result of each of its models."""
    return _of(device, context)


@router.get("/drills")
def list_drills(
    _reader: Reader,
    context: Context,
    request: Request,
    response: Response,
    outcome: DrillOutcome | None = None,
    after: Annotated[
        str,
        Query(max_length=128, pattern=PRINTED, description="device/model of the last seen"),
    ] = "",
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100,
) -> list[DrillResult]:
    """The newest result of every device and model."""
    device, _, model = after.partition("/")
    with context.store.read() as tx:
        rows = drills.results(
            tx,
            outcome=None if outcome is None else outcome.value,
            after=(device, model),
            limit=limit + 1,
        )
    page = first_of(rows, limit, request, response, after=lambda row: f"{row.device}/{row.model}")
    return [_told(row) for row in page]


def _of(device: str, context: Context) -> DeviceDrills:
    now = context.now()
    with context.store.read() as tx:
        devices.get(tx, device)
        orders, results = drills.orders_of(tx, device), drills.results(tx, device=device)
    return DeviceDrills(
        device=device,
        orders=[_ordered(row, now) for row in orders],
        results=[_told(row) for row in results],
    )


def _ordered(row: DrillOrderRow, now: datetime) -> DrillOrder:
    state = "answered" if row.answered_at else "waiting" if row.expires_at > now else "expired"
    return DrillOrder(
        order=row.order,
        device=row.device,
        model=row.model or None,
        state=state,
        by=row.by,
        reason=row.reason,
        at=row.at,
        expires_at=row.expires_at,
        answered_at=row.answered_at,
    )


def _told(row: DrillResultRow) -> DrillResult:
    return DrillResult(**{name: getattr(row, name) for name in DrillResult.model_fields})
