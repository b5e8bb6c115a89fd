"""Deltas: what is built, queued and failed, and what a person orders or drops."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel

from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Operator, Reader
from mailboat_controller.api.limits import OptionalReason
from mailboat_controller.api.pages import Key, Paged
from mailboat_controller.api.problems import PROBLEM
from mailboat_controller.delta_builds import pairs
from mailboat_controller.store import audit, deltas
from mailboat_controller.store.deltas import DeltaRow, State
from mailboat_controller.store.instants import to_ms
from mailboat_schemas.errors import Conflict
from mailboat_schemas.names import ClassName, ModelName, Version

router = APIRouter(prefix="/v1/deltas", tags=["deltas"])


class DeltaEntry(BaseModel):
    """A way to bring one file. Sizes in bytes, ``seconds`` to build it; ``base`` is empty for the
    whole file, compressed. What was built stands from ``format`` on."""

    target: str
    base: str
    memory_bytes_max: int
    target_length: int
    base_length: int
    state: State
    attempts: int
    code: str
    error: str
    next_attempt_at: datetime | None
    format: str
    patch: str
    patch_length: int
    memory_bytes: int
    seconds: float
    offered: bool
    devices: int
    purposes: list[Mapping[str, Any]]
    ordered_by: str
    queued_at: datetime
    updated_at: datetime


class DeltaFile(BaseModel):
    """One file of a release on one class: its ways from an older release, and every candidate
    that was weighed. ``pending`` as long as one of them is about to be built."""

    hardware_class: str
    path: str
    role: str
    length: int
    note: str
    queued: bool
    pending: bool
    delta: DeltaEntry | None
    full: DeltaEntry | None
    candidates: list[Mapping[str, Any]]


class DeltaOrder(BaseModel):
    hardware_class: ClassName | None = None
    reason: OptionalReason = ""


@router.get("")
def list_deltas(
    _reader: Reader, paging: Paged, context: Context, state: State | None = None
) -> list[DeltaEntry]:
    """In the order they were queued."""
    with context.store.read() as tx:
        rows = deltas.every(tx, *([] if state is None else [state]))
    return [DeltaEntry(**pairs.told(row)) for row in paging.cut(rows, _place)]


def _place(row: DeltaRow) -> Key:
    return (to_ms(row.queued_at), row.key.target, row.key.base, row.key.memory_bytes_max)


@router.get("/{model}/{base_version}/{version}", responses={409: {"content": PROBLEM}})
def explain_deltas(
    model: ModelName,
    base_version: Version,
    version: Version,
    _reader: Reader,
    context: Context,
    hardware_class: ClassName | None = None,
) -> list[DeltaFile]:
    """File by file from one release to another: what is known, which way wins and why."""
    with context.store.read() as tx:
        found = pairs.pairs(tx, model, base_version, version, hardware_class)
        return [DeltaFile(**each) for each in pairs.explain(tx, found)]


@router.post("/{model}/{base_version}/{version}/{verb}")
def order_deltas(
    model: ModelName,
    base_version: Version,
    version: Version,
    verb: Literal["build", "drop"],
    order: DeltaOrder,
    operator: Operator,
    context: Context,
) -> list[DeltaFile]:
    """Build what is not built yet, before everything else; or drop what was built."""
    if verb == "build" and not context.settings.delta_builds_at_once:
        raise Conflict(
            "This controller builds no deltas.",
            next_step="set delta_builds_at_once to 1 in its settings and start it again.",
        )
    now, actor = context.now(), str(operator)
    with context.store.transaction() as tx:
        found = pairs.pairs(tx, model, base_version, version, order.hardware_class)
        act = pairs.order if verb == "build" else pairs.drop
        answer = [DeltaFile(**each) for each in act(tx, found, actor=actor, now=now)]
        audit.append(
            tx,
            at=now,
            actor=actor,
            action=f"delta.{verb}",
            subject=f"{model}@{version}",
            reason=order.reason,
            details={"from": base_version, "hardware_class": order.hardware_class or "all"},
        )
    context.wake()
    return answer
