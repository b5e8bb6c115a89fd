"""MLflow's webhooks: verified, kept, answered. Whoever follows the aliases asks what came.

The controller has no key that signs releases, so it makes none of what MLflow says: that is for
`mailboat mlflow poll`, on the pipeline's side (docs/adr/0020-mlflow-on-the-pipelines-side.md).
"""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from mailboat_controller.api.context import ApiContext, Context
from mailboat_controller.api.identity import Publisher
from mailboat_controller.api.limits import NUMBER_MAX
from mailboat_controller.mlflow.delivery import BODY_BYTES_MAX, Delivery, read_delivery
from mailboat_controller.mlflow.secret_file import read_secrets
from mailboat_controller.store import mlflow_notices
from mailboat_controller.store.mlflow_notices import PAGE_MAX, Result
from mailboat_schemas.errors import NotFound, PayloadTooLarge

_NAME_CHARS_MAX = 128  # of a column

router = APIRouter(prefix="/v1/mlflow", tags=["mlflow"])


class Received(BaseModel):
    """``repeated``: this very delivery came before, and is not looked at again."""

    result: Result


class Notice(BaseModel):
    number: int
    registered: str
    alias: str
    at: datetime


class Notices(BaseModel):
    """``newest`` is what to ask ``after`` next time; ``counts`` are of all that ever came."""

    notices: list[Notice] = Field(max_length=PAGE_MAX)
    newest: int
    counts: dict[str, int]


@router.post("/webhook")
async def receive(request: Request, context: Context) -> Received:
    """For MLflow, which proves itself by its signature over the body."""
    body = await request.body()
    if len(body) > BODY_BYTES_MAX:
        raise PayloadTooLarge("webhook", len(body), BODY_BYTES_MAX)
    headers = {name.lower(): value for name, value in request.headers.items()}
    return await run_in_threadpool(_receive, headers, body, context)


@router.get("/notices")
def list_notices(
    _publisher: Publisher,
    context: Context,
    after: Annotated[int, Query(ge=0, le=NUMBER_MAX)] = 0,
) -> Notices:
    """Aliases that MLflow told of, in the order it did."""
    with context.store.read() as tx:
        rows = mlflow_notices.after(tx, after)
        newest = mlflow_notices.newest(tx)
        counts = mlflow_notices.counts(tx)
    return Notices(
        notices=[
            Notice(number=row.number, registered=row.registered, alias=row.alias, at=row.at)
            for row in rows
        ],
        newest=rows[-1].number if rows else min(after, newest),
        counts=counts,
    )


def _receive(headers: dict[str, str], body: bytes, context: ApiContext) -> Received:
    settings = context.settings.mlflow
    if settings.webhook_secret_file is None:
        raise NotFound(
            "This controller takes no webhooks of MLflow.",
            next_step="set webhook_secret_file in [mlflow]: docs/mlflow.md.",
        )
    now = context.now()
    secrets = read_secrets(settings.webhook_secret_file)
    delivery = read_delivery(headers, body, secrets, now)
    with context.store.transaction() as tx:
        if _is_watched(delivery, settings.watch):
            result = mlflow_notices.put(
                tx,
                delivery=delivery.id,
                registered=delivery.registered,
                alias=delivery.alias,
                at=now,
            )
        else:
            result = Result.IGNORED
        mlflow_notices.count(tx, result)
    return Received(result=result)


def _is_watched(delivery: Delivery, watch: tuple[str, ...]) -> bool:
    if not delivery.alias or max(len(delivery.registered), len(delivery.alias)) > _NAME_CHARS_MAX:
        return False
    if not (delivery.registered + delivery.alias).isprintable():
        return False
    return not watch or delivery.key in watch
