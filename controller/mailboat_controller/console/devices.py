"""One device: how it stands and since when, what it runs and why, its story, its telemetry."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from mailboat_controller.api.context import Context
from mailboat_controller.console.asked import EmptyIsNone
from mailboat_controller.console.auth import Viewer
from mailboat_controller.console.render import page
from mailboat_controller.explaining.explain import Evidence, explain_device
from mailboat_controller.presence import Reach, standing
from mailboat_controller.sites.reach import reach_by_site
from mailboat_controller.store import device_windows, log_requests, overrides
from mailboat_controller.traces import device_timeline
from mailboat_schemas.enrolment import fingerprint
from mailboat_schemas.names import DeviceId, ModelName, Version

TIMELINE_ENTRIES = 30
# What the plots may show: hours, and what that is called.
SPANS = {1: "1 hour", 6: "6 hours", 24: "1 day", 168: "1 week"}
SPAN_HOURS = 1  # of a large fleet, a longer time is slower to read
CURSOR_CHARS_MAX = 64

router = APIRouter()


@router.get("/devices/{device}")
def show_device(
    device: DeviceId,
    request: Request,
    _viewer: Viewer,
    context: Context,
    model: Annotated[ModelName | None, EmptyIsNone] = None,
    release: Annotated[Version | None, EmptyIsNone] = None,
    hours: Annotated[int, Query(ge=1, le=max(SPANS))] = SPAN_HOURS,
    before: Annotated[str | None, Query(max_length=CURSOR_CHARS_MAX)] = None,
) -> Response:
    """``model`` and ``release`` ask about one version besides; ``before`` pages the timeline."""
    now = context.now()
    since = now - timedelta(hours=hours)
    with context.store.read() as tx:
        found = explain_device(Evidence(tx, now), device, model=model, version=release)
        row = found.known.row
        links = reach_by_site(tx, {row.site}, now)
        notes = overrides.labels_of(tx, [device]).get(device, {})
        story = device_timeline.read(tx, device, before=before, limit=TIMELINE_ENTRIES)
        windows = device_windows.of_device(tx, device, since=since, until=now)
        logs = log_requests.of_device(tx, device)
    return page(
        request,
        "device.html",
        found=found,
        known=found.known,
        row=row,
        stands=standing(row, context.reach(), links.get(row.site, Reach())),
        fingerprint=fingerprint(row.public_key),
        notes=notes,
        story=story,
        windows=windows,
        logs=logs,
        asked=(model, release),
        spans=SPANS,
        hours=hours,
        before=before,
    )
