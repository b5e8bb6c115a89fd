"""One release's story from end to end."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Reader
from mailboat_controller.api.limits import PRINTED
from mailboat_controller.traces import reading
from mailboat_schemas.names import DeviceId

NAME_CHARS_MAX = 256

router = APIRouter(prefix="/v1/traces", tags=["traces"])


class TraceStep(BaseModel):
    """``at`` is the controller's clock; ``device_at`` the device's, which may be wrong."""

    at: datetime
    device_at: datetime | None
    what: str
    who: str
    subject: str
    because: str
    span: str
    details: dict[str, Any]


class ReleaseTrace(BaseModel):
    trace_id: str
    model: str
    version: str
    digest: str
    devices: int  # that told of it
    devices_shown: int  # those with the worst news
    steps: list[TraceStep]


@router.get("")
def read_trace(
    _reader: Reader,
    context: Context,
    of: Annotated[
        str,
        Query(
            min_length=1,
            max_length=NAME_CHARS_MAX,
            pattern=PRINTED,
            description="MODEL@VERSION, a digest, a trace id, or DEVICE/EVENT-ID",
        ),
    ],
    device: DeviceId | None = None,
) -> ReleaseTrace:
    """Submission, approvals, manifests and what devices told, in the controller's time."""
    with context.store.read() as tx:
        found = reading.read(tx, of, device)
    return ReleaseTrace(
        trace_id=found.trace_id,
        **found.release.as_dict(),
        devices=found.devices,
        devices_shown=found.devices_shown,
        steps=[TraceStep(**asdict(step)) for step in found.steps],
    )
