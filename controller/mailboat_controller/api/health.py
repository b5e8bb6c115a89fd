"""Is it up, what is it, and its numbers."""

import threading
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from mailboat_controller.api import etags, trust
from mailboat_controller.api.context import ApiContext, Context
from mailboat_controller.api.identity import Reader
from mailboat_controller.content.kek import KekUnusable
from mailboat_controller.trust import expiry
from mailboat_controller.trust.expiry import Level
from mailboat_schemas import CONTRACT_VERSION

NOTED_SECONDS = 10.0  # how old what `/v1/health` tells may be
EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: str


class HealthNote(BaseModel):
    """``trust`` and ``certificates`` are about what expires, ``content_keys`` about whether those
    of encrypted releases can be opened here, ``artifacts`` about files that were found damaged or
    cannot be reached, ``leader`` about the lock in the database without which this controller
    ends, ``ingest`` about processes that take messages in and were not heard of. None of it stops
    devices from serving."""

    status: Literal["ok", "attention"]
    trust: Level
    certificates: Level
    content_keys: Literal["ok", "unusable"]
    artifacts: Literal["ok", "damaged", "unreachable"]
    leader: Literal["held", "lost"]
    ingest: Literal["ok", "absent"]


class _HealthNotes:
    """Worked out once in a while, by one thread: it reads all metadata, perhaps asks a token, and
    anybody may ask for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: tuple[HealthNote, float] | None = None

    def get(self, context: ApiContext) -> HealthNote:
        held = self._held
        fresh = held is not None and time.monotonic() - held[1] < NOTED_SECONDS
        # While one thread works it out, the others tell what was before.
        if held is not None and (fresh or not self._lock.acquire(blocking=False)):
            return held[0]
        if held is None:
            self._lock.acquire()
        try:
            if self._held is not None and self._held is not held:
                return self._held[0]  # meanwhile
            note = _note(context)
            self._held = (note, time.monotonic())
            return note
        finally:
            self._lock.release()


def _note(context: ApiContext) -> HealthNote:
    roles, certificates = (expiry.worst(each) for each in trust.statuses(context))
    usable = True
    try:
        context.content_keys.check()
    except KekUnusable:
        usable = False
    artifacts = context.artifact_care.health()
    leads, absent = context.leads(), context.absent_partitions()
    good = (
        usable
        and leads
        and not absent
        and artifacts == "ok"
        and roles is Level.OK
        and certificates is Level.OK
    )
    return HealthNote(
        status="ok" if good else "attention",
        trust=roles,
        certificates=certificates,
        content_keys="ok" if usable else "unusable",
        artifacts=artifacts,
        leader="held" if leads else "lost",
        ingest="absent" if absent else "ok",
    )


class Info(BaseModel):
    """Open to everybody who reaches the port, so it holds nothing to keep."""

    product: str
    version: str
    contract: int
    fleet: str


@router.get("/healthz")
def healthz(context: Context) -> Health:
    """Answers when the database does."""
    context.store.ping()
    return Health(status="ok")


@router.get("/v1/health")
def health(context: Context, request: Request) -> HealthNote:
    """Whether somebody should look, for probes that have no identity: words only. Who may sign
    what, and when it ends, is at ``/v1/trust/status`` for those who may read it."""
    held: _HealthNotes | None = getattr(request.app.state, "health_notes", None)
    if held is None:
        held = request.app.state.health_notes = _HealthNotes()
    return held.get(context)


@router.get("/v1/info")
def info(context: Context) -> Info:
    """Which product, which contract, which fleet."""
    return Info(
        product="mailboat",
        version=version("mailboat"),
        contract=CONTRACT_VERSION,
        fleet=context.settings.fleet,
    )


@router.get("/v1/stats")
def stats(_reader: Reader, context: Context) -> Mapping[str, Mapping[str, Any]]:
    """The roll-ups that are published on MQTT for dashboards, by scope/name."""
    return context.roll_ups()


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": etags.content_of("text/plain")}},
)
def metrics(_reader: Reader, context: Context) -> Response:
    """For Prometheus, which comes with a dashboard certificate."""
    return Response(context.metrics(), media_type=EXPOSITION)
