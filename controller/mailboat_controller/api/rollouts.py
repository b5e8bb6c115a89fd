"""Rollouts: how far they are, and the orders a person can give."""

from collections.abc import Mapping
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel

from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Operator, Reader
from mailboat_controller.api.limits import Reason
from mailboat_controller.rollout.state import Trigger
from mailboat_schemas.names import Label

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


@router.get("")
def list_rollouts(_reader: Reader, context: Context) -> list[Mapping[str, Any]]:
    """All of them, oldest first, without counts: those of one are at its own address."""
    return list(context.rollouts())


@router.get("/{name}")
def get_rollout(name: Label, _reader: Reader, context: Context) -> Mapping[str, Any]:
    """Phase, reason, and per class and wave the counts that add up."""
    return context.rollout_status(name)


@router.post("/{name}/{verb}")
def order_rollout(
    name: Label,
    verb: Literal["start", "promote", "pause", "resume", "abort", "undo"],
    order: Order,
    operator: Operator,
    context: Context,
) -> Mapping[str, Any]:
    """Start, promote, pause, resume, abort or undo; answers with what came of it."""
    context.order(name, _TRIGGERS[verb], str(operator), order.reason)
    context.wake()
    return context.rollout_status(name)
