"""Webhooks: who is told of outcomes and failures."""

import json
import secrets
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field, SecretStr, StringConstraints

from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Operator
from mailboat_controller.api.limits import NUMBER_MAX, PRINTED, Reason
from mailboat_controller.api.once_told import OnceTold
from mailboat_controller.api.pages import Paged, first_of
from mailboat_controller.store import audit, webhook_deliveries, webhooks
from mailboat_controller.store.webhooks import State, WebhookRow
from mailboat_controller.webhooks import occurrences, secrets_room, signing, target
from mailboat_schemas.errors import ConfigurationInvalid
from mailboat_schemas.names import Label, ModelName

DELIVERIES_MAX = 500
TYPES_MAX = 32
MODELS_MAX = 100

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

Url = Annotated[str, StringConstraints(min_length=8, max_length=1000, pattern=PRINTED)]

Secret = Annotated[
    SecretStr | None,
    Field(max_length=200, description="whsec_…; without one it is made and told once"),
]


class NewWebhook(BaseModel):
    name: Label
    url: Url
    types: list[str] = Field(default=[], max_length=TYPES_MAX, description="empty: all")
    models: list[ModelName] = Field(default=[], max_length=MODELS_MAX, description="empty: all")
    secret: Secret = None
    reason: Reason


class Webhook(BaseModel):
    """``because`` says why it is disabled; ``failures`` are attempts in a row."""

    name: str
    url: str
    types: list[str]
    models: list[str]
    state: str
    because: str
    failures: int
    failing_since: datetime | None
    waiting: int
    created_by: str
    created_at: datetime


class AddedWebhook(Webhook):
    secret: str | None = Field(description="only if it was made here, and never again")


class NewSecret(BaseModel):
    secret: Secret = None
    reason: Reason


class RenewedSecret(BaseModel):
    """Until ``both_until`` events are signed with the secret before it as well."""

    name: str
    both_until: datetime
    secret: str | None = Field(description="only if it was made here, and never again")


class Deed(BaseModel):
    reason: Reason


class TestAnswer(BaseModel):
    delivered: bool
    status: int | None
    problem: str


class Delivery(BaseModel):
    event: str
    type: str
    state: str
    attempts: int
    next_attempt_at: datetime | None
    status: int | None
    problem: str
    created_at: datetime
    ended_at: datetime | None


@router.get("")
def list_webhooks(_operator: Operator, paging: Paged, context: Context) -> list[Webhook]:
    """Every webhook, by name."""
    with context.store.read() as tx:
        waiting = webhook_deliveries.count_waiting(tx)
        rows = paging.cut(webhooks.every(tx), lambda row: (row.name,))
    return [Webhook(**_shown(row, waiting.get(row.name, 0))) for row in rows]


@router.post("", status_code=201, dependencies=[OnceTold])
def add_webhook(order: NewWebhook, operator: Operator, context: Context) -> AddedWebhook:
    """Tell a receiver of what happens from here on."""
    unknown = sorted(set(order.types) - set(occurrences.EVENT_TYPES))
    if unknown:
        raise ConfigurationInvalid(
            f"There are no events of the type {unknown[0][:80]}.",
            next_step=f"take some of {', '.join(occurrences.EVENT_TYPES)}.",
        )
    target.parse(order.url, context.settings.webhooks.http_hosts)
    given, made = _secret(order.secret)
    now = context.now()
    with context.store.read() as tx:
        webhooks.refuse_another(tx, order.name)  # before a secret is written that nobody needs
    room = context.settings.webhook_secrets_dir
    row = WebhookRow(
        name=order.name,
        url=order.url,
        types=tuple(order.types),
        models=tuple(order.models),
        state=State.ACTIVE,
        because="",
        failures=0,
        failing_since=None,
        created_by=str(operator),
        created_at=now,
        secret_file=secrets_room.keep(room, order.name, given),
    )
    with context.store.transaction() as tx:
        webhooks.add(tx, row)
        _record(context, tx, "webhook.add", row, order.reason, str(operator))
    return AddedWebhook(**_shown(row, 0), secret=made)


@router.delete("/{name}", status_code=204)
def remove_webhook(
    name: Label,
    operator: Operator,
    context: Context,
    reason: Annotated[Reason, Query(description="for the audit log")],
) -> Response:
    """What waits for it is dropped."""
    with context.store.transaction() as tx:
        row = webhooks.get(tx, name)
        webhooks.remove(tx, name)
        _record(context, tx, "webhook.remove", row, reason, str(operator))
    # Its alone: one that was added meanwhile by the same name has another.
    secrets_room.forget(context.settings.webhook_secrets_dir, row.secret_file)
    return Response(status_code=204)


@router.post("/{name}/secret", dependencies=[OnceTold])
def renew_secret(
    name: Label, order: NewSecret, operator: Operator, context: Context
) -> RenewedSecret:
    """Another secret; for a day the one before signs as well."""
    given, made = _secret(order.secret)
    with context.store.transaction() as tx:
        row = webhooks.get(tx, name)
        _record(context, tx, "webhook.secret", row, order.reason, str(operator))
        room = context.settings.webhook_secrets_dir
        file, until = secrets_room.renew(room, name, row.secret_file, given, context.now())
        # The file of before stays for a delivery that is under way; it is swept within hours.
        webhooks.set_secret_file(tx, name, row.secret_file, file)
    return RenewedSecret(name=name, both_until=until, secret=made)


@router.post("/{name}/test")
def test_webhook(name: Label, deed: Deed, operator: Operator, context: Context) -> TestAnswer:
    """One signed event at once, whatever its filters; it is not tried again."""
    now = context.now()
    with context.store.transaction() as tx:
        row = webhooks.get(tx, name)
        _record(context, tx, "webhook.test", row, deed.reason, str(operator))
    event = f"msg_test_{secrets.token_hex(16)}"
    body = {
        "specversion": "1.0",
        "id": event,
        "source": f"/mailboat/{context.settings.fleet}",
        "type": occurrences.TEST_TYPE,
        "subject": name,
        "time": now.isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": {"fleet": context.settings.fleet, "actor": str(operator), "reason": deed.reason},
    }
    answer = context.courier.send(row, event, json.dumps(body, separators=(",", ":")).encode())
    return TestAnswer(delivered=answer.delivered, status=answer.status, problem=answer.problem)


@router.post("/{name}/{verb}")
def switch_webhook(
    name: Label,
    verb: Literal["enable", "disable"],
    deed: Deed,
    operator: Operator,
    context: Context,
) -> Webhook:
    """Enabling one tries what still waits at once; what happened meanwhile is not made up for."""
    now = context.now()
    with context.store.transaction() as tx:
        row = webhooks.get(tx, name)
        state = State.ACTIVE if verb == "enable" else State.DISABLED
        because = "" if verb == "enable" else f"by {operator}: {deed.reason}"
        webhooks.set_state(tx, name, state, because)
        if state is State.ACTIVE:
            webhook_deliveries.send_soon(tx, name, now)
        _record(context, tx, f"webhook.{verb}", row, deed.reason, str(operator))
        shown = _shown(webhooks.get(tx, name), webhook_deliveries.count_waiting(tx).get(name, 0))
    return Webhook(**shown)


@router.get("/{name}/deliveries")
def list_deliveries(
    name: Label,
    _operator: Operator,
    context: Context,
    request: Request,
    response: Response,
    before: Annotated[
        int | None, Query(ge=1, le=NUMBER_MAX, description="from the link to the next page")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=DELIVERIES_MAX)] = 50,
) -> list[Delivery]:
    """The newest first."""
    with context.store.read() as tx:
        webhooks.get(tx, name)
        rows = webhook_deliveries.deliveries(tx, name, limit + 1, before=before)
    page = first_of(rows, limit, request, response, before=lambda row: row.number)
    return [
        Delivery(
            event=row.event,
            type=row.type,
            state=row.state,
            attempts=row.attempts,
            next_attempt_at=None if row.ended_at else row.next_attempt_at,
            status=row.status,
            problem=row.problem,
            created_at=row.created_at,
            ended_at=row.ended_at,
        )
        for row in page
    ]


def _secret(order: SecretStr | None) -> tuple[str, str | None]:
    """To be kept, and to be told."""
    if order is None:
        made = signing.new_secret()
        return made, made
    return order.get_secret_value(), None


def _record(
    context: Context, tx: Any, action: str, row: WebhookRow, reason: str, operator: str
) -> None:
    audit.append(
        tx,
        at=context.now(),
        actor=operator,
        action=action,
        subject=row.name,
        reason=reason,
        details={
            "url": target.origin_of(row.url),
            "types": list(row.types),
            "models": list(row.models),
        },
    )


def _shown(row: WebhookRow, waiting: int) -> dict[str, Any]:
    return {
        "name": row.name,
        "url": row.url,
        "types": list(row.types),
        "models": list(row.models),
        "state": row.state.value,
        "because": row.because,
        "failures": row.failures,
        "failing_since": row.failing_since,
        "waiting": waiting,
        "created_by": row.created_by,
        "created_at": row.created_at,
    }
