"""Is it up, what is it, and its numbers."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel

from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Reader
from mailboat_schemas import CONTRACT_VERSION

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: str


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


@router.get("/v1/info")
def info(context: Context) -> Info:
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


@router.get("/metrics", response_class=Response)
def metrics(_reader: Reader, context: Context) -> Response:
    """For Prometheus, which comes with a dashboard certificate."""
    return Response(context.metrics(), media_type=EXPOSITION)
