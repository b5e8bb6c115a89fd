"""The first page: how the fleet stands, and what needs somebody first."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.background import BackgroundTask

from mailboat_controller.api.context import ApiContext, Context
from mailboat_controller.console import attention
from mailboat_controller.console.auth import Viewer
from mailboat_controller.console.counted import Counter
from mailboat_controller.console.fleet_picture import FleetPicture
from mailboat_controller.console.render import page
from mailboat_controller.store import audit, overview_rows

LATEST_ENTRIES = 8
PLACES = ("ok", "failed", "in_progress", "waiting", "not_open")

router = APIRouter()


@router.get("/")
def overview(request: Request, _viewer: Viewer, context: Context) -> Response:
    """One bounded set of questions: a few rows of rollouts and of the audit log at every look;
    what costs a pass over the fleet is counted now and then (`counted.py`)."""
    counter: Counter = request.app.state.counter
    counted = counter.latest()
    with context.store.read() as tx:
        halted = overview_rows.halted(tx)
        under_way = overview_rows.under_way(tx)
        completed = overview_rows.completed(tx, limit=5)
        head, _ = audit.head(tx)
        entries = audit.page(tx, after=max(0, head - LATEST_ENTRIES), limit=LATEST_ENTRIES)
    roll_ups = context.roll_ups()
    response = page(
        request,
        "overview.html",
        counted=counted,
        items=attention.items(
            counted,
            halted,
            under_way,
            reach=context.reach(),
            leads=context.leads(),
            absent_partitions=context.absent_partitions(),
            now=context.now(),
        ),
        moving=[(line, places(roll_ups.get(f"rollout/{line.name}"))) for line in under_way],
        completed=completed,
        entries=entries[::-1],
    )
    fleet: FleetPicture = request.app.state.fleet
    if counter.due or fleet.held is None:
        response.background = BackgroundTask(_afterwards, counter, fleet, context)
    return response


def _afterwards(counter: Counter, fleet: FleetPicture, context: ApiContext) -> None:
    """What the next look will want, once this one is answered."""
    counter.refresh()
    if fleet.held is None:
        fleet.refresh(context.now())


def places(roll_up: Mapping[str, Any] | None) -> Mapping[str, int] | None:
    """Of a rollout's devices, as they were counted last; None while nobody has."""
    if roll_up is None or not all(isinstance(roll_up.get(place), int) for place in PLACES):
        return None
    found = {place: int(roll_up[place]) for place in PLACES}
    return {**found, "eligible": sum(found.values()), "excluded": int(roll_up.get("excluded", 0))}
