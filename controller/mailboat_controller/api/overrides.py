"""Holding, pinning and labelling one device. Everything here is audited with actor and reason."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, TypedDict

from fastapi import APIRouter
from pydantic import BaseModel, Field, StringConstraints

from mailboat_controller.api.context import ApiContext, Context
from mailboat_controller.api.identity import Operator, Person
from mailboat_controller.api.limits import PRINTED
from mailboat_controller.overrides.orders import LABELS_MAX
from mailboat_controller.store import overrides
from mailboat_controller.store.overrides import HOLD, PIN, OverrideRow
from mailboat_schemas.device_orders import OVERRIDE_REASON_CHARS_MAX
from mailboat_schemas.names import DeviceId, Label, ModelName, Version

HOURS_DEFAULT = 72  # over a weekend
HOURS_MAX = 366 * 24  # nothing stands for ever: a forgotten hold keeps a device unmended

router = APIRouter(prefix="/v1/devices", tags=["devices"])

# The device shows it, in a message that has room for so much.
OrderReason = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        min_length=1,
        max_length=OVERRIDE_REASON_CHARS_MAX,
        pattern=PRINTED,
    ),
]
LabelValue = Annotated[str, StringConstraints(max_length=256, pattern=PRINTED)]
Hours = Annotated[float, Field(gt=0, le=HOURS_MAX, description="until it ends by itself")]


class _Order(BaseModel):
    reason: OrderReason


class HoldOrder(_Order):
    model: ModelName | None = Field(default=None, description="none: every model")
    hours: Hours = HOURS_DEFAULT


class PinOrder(_Order):
    model: ModelName
    version: Version
    hours: Hours = HOURS_DEFAULT


class HoldEnd(_Order):
    model: ModelName | None = None


class PinEnd(_Order):
    model: ModelName


class LabelOrder(_Order):
    """Values of operators' labels; null takes one away. Rings do not see them."""

    labels: dict[Label, LabelValue | None] = Field(min_length=1, max_length=LABELS_MAX)


class Override(BaseModel):
    """``kind`` is hold or pin; a hold without a model is one of every model."""

    kind: str
    model: str | None
    version: str | None
    by: str
    reason: str
    at: datetime
    expires_at: datetime


class DeviceOverrides(BaseModel):
    device: str
    overrides: list[Override]
    operator_labels: dict[str, str]


def shown(rows: Sequence[OverrideRow], now: datetime) -> list[Override]:
    """Those that stand."""
    return [
        Override(
            kind=row.kind,
            model=row.model or None,
            version=row.version,
            by=row.by,
            reason=row.reason,
            at=row.at,
            expires_at=row.expires_at,
        )
        for row in rows
        if row.expires_at > now
    ]


@router.post("/{device}/hold")
def hold_device(
    device: DeviceId, order: HoldOrder, operator: Operator, context: Context
) -> DeviceOverrides:
    """Let nothing new be installed on a device."""
    valid = timedelta(hours=order.hours)
    context.overrides.hold(device, order.model, **_by(operator, order), valid=valid)
    return _of(device, context)


@router.post("/{device}/release-hold")
def release_device(
    device: DeviceId, order: HoldEnd, operator: Operator, context: Context
) -> DeviceOverrides:
    """Take a hold back."""
    context.overrides.take_back(device, HOLD, order.model, **_by(operator, order))
    return _of(device, context)


@router.post("/{device}/pin")
def pin_device(
    device: DeviceId, order: PinOrder, operator: Operator, context: Context
) -> DeviceOverrides:
    """Have a device run one approved release of a model and no other, within its plan."""
    valid = timedelta(hours=order.hours)
    context.overrides.pin(device, order.model, order.version, **_by(operator, order), valid=valid)
    return _of(device, context)


@router.post("/{device}/unpin")
def unpin_device(
    device: DeviceId, order: PinEnd, operator: Operator, context: Context
) -> DeviceOverrides:
    """Take a pin back."""
    context.overrides.take_back(device, PIN, order.model, **_by(operator, order))
    return _of(device, context)


@router.post("/{device}/labels")
def label_device(
    device: DeviceId, order: LabelOrder, operator: Operator, context: Context
) -> DeviceOverrides:
    """Note something of a device that selectors can ask for. Rings go by its own labels alone."""
    context.overrides.label(device, dict(order.labels), **_by(operator, order))
    return _of(device, context)


class _Deed(TypedDict):
    actor: str
    reason: str


def _by(operator: Person, order: _Order) -> _Deed:
    """For the audit log."""
    return {"actor": str(operator), "reason": order.reason}


def _of(device: str, context: ApiContext) -> DeviceOverrides:
    with context.store.read() as tx:
        rows = overrides.of_device(tx, device)
        labels = overrides.labels_of(tx, [device]).get(device, {})
    return DeviceOverrides(
        device=device, overrides=shown(rows, context.now()), operator_labels=labels
    )
