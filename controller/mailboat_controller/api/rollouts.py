"""Rollouts: how far they are, and the orders a person can give."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Operator, Reader
from mailboat_controller.api.limits import Reason
from mailboat_controller.api.pages import Key, Paged
from mailboat_controller.api.timeline_entry import TimelineEntry
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


# As text: what is told stays to the letter.
Instant = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class Order(BaseModel):
    """An order without a reason helps nobody later."""

    reason: Reason
    wave: Annotated[int, Field(ge=1, le=WAVES_MAX)] | None = Field(
        default=None,
        description="the newest open wave as the person saw it; refused when another is by now",
    )


class RolloutSummary(BaseModel):
    """What its own row says. ``emergency`` is why an approver signed it as one, empty: it is none;
    ``waves`` of the plan, of which ``waves_open`` are open."""

    model_config = ConfigDict(extra="allow")

    name: str
    model: str
    version: str
    digest: str
    phase: Phase
    because: str
    waves_open: int
    waves: int
    emergency: str
    retry_epoch: int
    created_at: Instant
    started_at: Instant | None
    wave_opened_at: Instant | None
    completed_at: Instant | None


class RolloutStatus(RolloutSummary):
    """``classes``: by hardware class how many devices are eligible, and of them not open, waiting,
    in progress, ok and failed, of all and of each wave; they add up. ``deliveries``: how the
    release came to devices."""

    classes: dict[str, dict[str, Any]]
    deliveries: list[dict[str, Any]]


@router.get("")
def list_rollouts(
    _reader: Reader,
    paging: Paged,
    context: Context,
    model: ModelName | None = None,
    phase: Phase | None = None,
) -> list[RolloutSummary]:
    """Oldest first, without counts: those of one are at its own address."""
    rows = [
        row
        for row in context.rollouts()
        if (model is None or row["model"] == model) and (phase is None or row["phase"] == phase)
    ]
    return [RolloutSummary.model_validate(row) for row in paging.cut(rows, _place)]


def _place(row: Mapping[str, Any]) -> Key:
    return (to_ms(datetime.fromisoformat(row["created_at"])), row["name"])


@router.get("/{name}")
def get_rollout(name: Label, _reader: Reader, context: Context) -> RolloutStatus:
    """Phase, reason, and per class and wave the counts that add up."""
    return RolloutStatus.model_validate(context.rollout_status(name))


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
) -> RolloutStatus:
    """Start, promote, pause, resume, abort or undo; answers with what came of it."""
    context.order(name, _TRIGGERS[verb], str(operator), order.reason, order.wave)
    context.wake()
    return RolloutStatus.model_validate(context.rollout_status(name))
