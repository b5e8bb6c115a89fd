"""What an operator orders for one device from its page: hold, pin, and asking for its log.

The same calls as the API's, audited with the same words.
"""

import secrets
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response

from mailboat_controller.api.context import Context
from mailboat_controller.api.device_logs import HOURS_MAX as LOG_HOURS_MAX
from mailboat_controller.api.device_logs import REQUEST_BYTES
from mailboat_controller.api.limits import NUMBER_MAX
from mailboat_controller.api.overrides import HOURS_DEFAULT, HOURS_MAX
from mailboat_controller.console import confirm as confirmation
from mailboat_controller.console.auth import Operator
from mailboat_controller.console.flash import Flash, see_other
from mailboat_controller.console.render import page
from mailboat_controller.console.session import PREFIX
from mailboat_controller.store import devices, log_requests
from mailboat_controller.store.overrides import HOLD, PIN
from mailboat_schemas.device_orders import OVERRIDE_REASON_CHARS_MAX, LogLine, RequestId
from mailboat_schemas.errors import MalformedPayload
from mailboat_schemas.names import DeviceId, ModelName, Version

LINES_PER_PAGE = 200
LOG_HOURS = 24.0
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

router = APIRouter(prefix="/devices/{device}")

Typed = Annotated[str, Form(max_length=128)]
Why = Annotated[str, Form(max_length=2 * confirmation.REASON_CHARS_MAX)]
Hours = Annotated[float, Form(gt=0, le=HOURS_MAX)]
AnyModel = Annotated[ModelName | None, Form()]


@router.post("/hold")
def hold(
    device: DeviceId,
    operator: Operator,
    context: Context,
    confirm: Typed = "",
    reason: Why = "",
    model: AnyModel = None,
    hours: Hours = HOURS_DEFAULT,
) -> Response:
    said = _reason(confirm, device, reason)
    valid = timedelta(hours=hours)
    context.overrides.hold(device, model, actor=str(operator), reason=said, valid=valid)
    return _back(device, f"{device} is held: nothing new is installed there for {hours:g} h.")


@router.post("/release-hold")
def release_hold(
    device: DeviceId,
    operator: Operator,
    context: Context,
    confirm: Typed = "",
    reason: Why = "",
    model: AnyModel = None,
) -> Response:
    said = _reason(confirm, device, reason)
    context.overrides.take_back(device, HOLD, model, actor=str(operator), reason=said)
    return _back(device, f"The hold of {device} is taken back.")


@router.post("/pin")
def pin(
    device: DeviceId,
    operator: Operator,
    context: Context,
    model: Annotated[ModelName, Form()],
    version: Annotated[Version, Form()],
    confirm: Typed = "",
    reason: Why = "",
    hours: Hours = HOURS_DEFAULT,
) -> Response:
    said = _reason(confirm, device, reason)
    valid = timedelta(hours=hours)
    context.overrides.pin(device, model, version, actor=str(operator), reason=said, valid=valid)
    return _back(device, f"{device} is pinned to {model} {version} for {hours:g} h.")


@router.post("/unpin")
def unpin(
    device: DeviceId,
    operator: Operator,
    context: Context,
    model: Annotated[ModelName, Form()],
    confirm: Typed = "",
    reason: Why = "",
) -> Response:
    said = _reason(confirm, device, reason)
    context.overrides.take_back(device, PIN, model, actor=str(operator), reason=said)
    return _back(device, f"The pin of {device} is taken back.")


@router.post("/logs")
def ask_for_logs(
    device: DeviceId,
    operator: Operator,
    context: Context,
    confirm: Typed = "",
    reason: Why = "",
    hours: Annotated[float, Form(gt=0, le=LOG_HOURS_MAX)] = LOG_HOURS,
) -> Response:
    row = context.log_orders.ask(
        device,
        secrets.token_hex(REQUEST_BYTES),
        actor=str(operator),
        reason=confirmation.check(confirm, device, reason),
        since=None,
        follow_seconds=0,
        valid=timedelta(hours=hours),
    )
    said = f"{device} is asked for its log; it answers when it is there."
    return see_other(f"{PREFIX}/devices/{device}/logs/{row.request}", Flash("ok", said))


@router.get("/logs/{log_request}")
def show_log(
    device: DeviceId,
    log_request: RequestId,
    request: Request,
    _operator: Operator,
    context: Context,
    after: Annotated[int, Query(ge=0, le=NUMBER_MAX)] = 0,
) -> Response:
    """What has come of a device's log so far."""
    with context.store.read() as tx:
        row = devices.get(tx, device)
        asked = log_requests.get(tx, device, log_request)
        lines = log_requests.lines_after(tx, log_request, after, LINES_PER_PAGE + 1)
    return page(
        request,
        "device_log.html",
        row=row,
        asked=asked,
        lines=[(each, _said_at(each)) for each in lines[:LINES_PER_PAGE]],
        more=len(lines) > LINES_PER_PAGE,
        after=after,
    )


def _said_at(line: LogLine) -> datetime:
    """By the device's clock."""
    return EPOCH + timedelta(milliseconds=line.at)


def _reason(typed: str, device: str, reason: str) -> str:
    """
    Raises:
        NotConfirmed; MalformedPayload: the reason is too long for the device to show.
    """
    said = confirmation.check(typed, device, reason)
    if len(said) > OVERRIDE_REASON_CHARS_MAX:
        raise MalformedPayload(
            f"The reason has {len(said)} characters, and the device shows at most "
            f"{OVERRIDE_REASON_CHARS_MAX}; nothing was done.",
            next_step="say it shorter.",
        )
    return said


def _back(device: str, said: str) -> Response:
    return see_other(f"{PREFIX}/devices/{device}", Flash("ok", said))
