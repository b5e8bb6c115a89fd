"""Rollouts: how far they are, and the orders a person can give."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Operator, Reader
from mailboat_controller.api.limits import Reason
from mailboat_controller.api.pages import Key, Paged
from mailboat_controller.rollout.state import Phase, Trigger
from mailboat_controller.store.instants import to_ms
from mailboat_controller.traces import timeline
from mailboat_schemas.documents.rollout import WAVES_MAX
from mailboat_schemas.names import Label, ModelName

router = APIRouter(prefix="/v1/rollouts", tags=["rollouts"])

_TRIGGERS = {
    "start": Trigger.START,
    "promote": Trigger.PROMOTE,
    "pause": Trigger.PAUSE,
    "resume": Trigger.RESUME,
    "abort": Trigger.ABORT,
    "undo": Trigger.UNDO,
}


class Order(BaseModel):
    """An order without a reason helps nobody later."""

    reason: Reason
    wave: Annotated[int, Field(ge=1, le=WAVES_MAX)] | None = Field(
        default=None,
        description="the newest open wave as the person saw it; refused when another is by now",
    )


@router.get("")
def list_rollouts(
    _reader: Reader,
    paging: Paged,
    context: Context,
    model: ModelName | None = None,
    phase: Phase | None = None,
) -> list[Mapping[str, Any]]:
    """Oldest first, without counts: those of one are at its own address."""
    rows = [
        row
        for row in context.rollouts()
        if (model is None or row["model"] == model) and (phase is None or row["phase"] == phase)
    ]
    return paging.cut(rows, _place)


def _place(row: Mapping[str, Any]) -> Key:
    return (to_ms(datetime.fromisoformat(row["created_at"])), row["name"])


@router.get("/{name}")
def get_rollout(name: Label, _reader: Reader, context: Context) -> Mapping[str, Any]:
    """Phase, reason, and per class and wave the counts that add up."""
    return context.rollout_status(name)


class TimelineEntry(BaseModel):
    """``at`` is the controller's clock. ``resumed``: what serves on a device that left the release
    (``version``; None: nothing), and after how many ``seconds`` by its own clock, if it told."""

    at: datetime
    what: str
    who: str
    subject: str
    because: str
    threshold: str
    resumed: dict[str, Any] | None
    details: dict[str, Any]


class RolloutTimeline(BaseModel):
    rollout: str
    model: str
    version: str
    digest: str
    phase: str
    because: str
    threshold: str  # that halted it
    resumed: dict[str, int]  # version -> devices that serve it after they left the release
    resume_seconds_max: float | None
    devices: int  # that told of the release
    devices_shown: int  # those with the worst news
    entries: list[TimelineEntry]


@router.get("/{name}/timeline")
def get_timeline(name: Label, _reader: Reader, context: Context) -> RolloutTimeline:
    """Who did what, which threshold tripped, what resumed service, in the controller's order."""
    with context.store.read() as tx:
        found = timeline.read(tx, name)
    return RolloutTimeline.model_validate(asdict(found))


@router.post("/{name}/{verb}")
def order_rollout(
    name: Label,
    verb: Literal["start", "promote", "pause", "resume", "abort", "undo"],
    order: Order,
    operator: Operator,
    context: Context,
) -> Mapping[str, Any]:
    """Start, promote, pause, resume, abort or undo; answers with what came of it."""
    context.order(name, _TRIGGERS[verb], str(operator), order.reason, order.wave)
    context.wake()
    return context.rollout_status(name)
