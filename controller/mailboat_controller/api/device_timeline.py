"""One device's story, a page at a time."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Reader
from mailboat_controller.api.timeline_entry import TimelineEntry
from mailboat_controller.traces import device_timeline
from mailboat_schemas.names import DeviceId

CURSOR_PATTERN = r"^[0-9]{1,19}-[0-9]{1,19}$"

router = APIRouter(prefix="/v1/devices", tags=["devices"])


class DeviceTimelinePage(BaseModel):
    device: str
    hardware_class: str
    site: str
    serving: dict[str, str]  # model -> version
    entries: list[TimelineEntry]  # oldest first
    earlier: str | None = Field(description="`before` of the page before this one; null: none")


@router.get("/{device}/timeline")
def get_device_timeline(
    device: DeviceId,
    _reader: Reader,
    context: Context,
    before: Annotated[
        str | None, Query(pattern=CURSOR_PATTERN, description="`earlier` of the page after it")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=device_timeline.PAGE_ENTRIES_MAX)] = 100,
) -> DeviceTimelinePage:
    """What it told and what was ordered of it, with the moves of the rollouts it takes part in."""
    with context.store.read() as tx:
        found = device_timeline.read(tx, device, before=before, limit=limit)
    return DeviceTimelinePage.model_validate(asdict(found))
