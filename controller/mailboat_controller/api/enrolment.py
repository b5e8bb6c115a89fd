"""Enrolment: operators make kits, devices spend them, and a person approves where the kit says so.

While a person has yet to decide, the device sends the same request again, as often as it likes; its
token was spent by the first. Whoever approves has compared the key's fingerprint with what the
device shows.
"""

import base64
import hmac
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from mailboat_controller.api.context import ApiContext, Context
from mailboat_controller.api.identity import Operator
from mailboat_controller.api.limits import PRINTED, OptionalReason
from mailboat_controller.api.once_told import OnceTold
from mailboat_controller.pki.certificates import public_key_of_request
from mailboat_controller.store import (
    audit,
    classes,
    credentials,
    device_certificates,
    devices,
    enrolment_requests,
    sites,
    tokens,
    trust_roles,
)
from mailboat_controller.store.enrolment_requests import EnrolmentRequestRow, State
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.enrolment import (
    EnrolmentKit,
    EnrolmentPending,
    EnrolmentRequest,
    EnrolmentResponse,
    fingerprint,
)
from mailboat_schemas.errors import Conflict, NotFound, NotPermitted
from mailboat_schemas.names import DIRECT_SITE, RESERVED_NAMES, ClassName, Label, SiteName

PENDING_RETRY_SECONDS = 5.0
USES_MAX = 10_000
HOURS_MAX = 24 * 30  # a kit in a drawer for longer is a secret nobody watches

router = APIRouter(prefix="/v1", tags=["enrolment"])


class EnrolmentRejected(NotPermitted):
    """A person has looked at the request and said no."""

    code = "E-ENROLMENT-REJECTED"


class TokenOrder(BaseModel):
    """What an operator asks a kit for."""

    hardware_class: ClassName
    site: SiteName = DIRECT_SITE
    labels: dict[Label, Annotated[str, Field(max_length=256, pattern=PRINTED)]] = Field(
        default_factory=dict, max_length=32
    )
    uses: int = Field(default=1, ge=1, le=USES_MAX)
    hours: float = Field(default=24, gt=0, le=HOURS_MAX)
    approval: bool = Field(default=False, description="a person approves each device")
    reason: OptionalReason = ""


@router.post("/enrolment-tokens", status_code=201, dependencies=[OnceTold])
def create_kit(order: TokenOrder, operator: Operator, context: Context) -> EnrolmentKit:
    """A kit with a one-time token, for ``uses`` devices of one class and site."""
    token, now = context.token(), context.now()
    with context.store.transaction() as tx:
        classes.get(tx, order.hardware_class)
        tokens.add_token(
            tx,
            token,
            hardware_class=order.hardware_class,
            site=order.site,
            labels=order.labels,
            uses=order.uses,
            expires_at=now + timedelta(hours=order.hours),
            at=now,
            created_by=str(operator),
            approval=order.approval,
        )
        audit.append(
            tx,
            at=now,
            actor=str(operator),
            action="enrolment_token.create",
            subject=order.hardware_class,
            reason=order.reason,
            details=order.model_dump(mode="json", exclude={"reason"}),
        )
        root = _newest_root(tx)
        site = sites.by_name(tx, order.site)
    return EnrolmentKit(
        fleet=context.settings.fleet,
        hardware_class=order.hardware_class,
        site=order.site,
        labels=order.labels,
        api_url=context.api_url,
        # Devices of a site speak to its broker, and ask its cache first.
        mqtt_host=context.mqtt_host if site is None else site.broker_host,
        mqtt_port=context.mqtt_port if site is None else site.broker_port,
        mirrors=(site.cache_url,) if site is not None and site.cache_url else (),
        ca=context.authority.ca_pem.decode(),
        trust_root=root,
        token=token,
        approval=order.approval,
    )


@router.post("/enrol", status_code=201, responses={202: {"model": EnrolmentPending}})
def enrol(
    request: EnrolmentRequest, context: Context, response: Response
) -> EnrolmentResponse | EnrolmentPending:
    """A device's first certificate, for its token. 202: a person has yet to approve."""
    public_key = public_key_of_request(request.certificate_request)
    with context.store.transaction() as tx:
        grant = _grant(tx, request, public_key, context.now())
        if grant is None:
            response.status_code = 202
            return EnrolmentPending(
                device=request.device,
                fingerprint=fingerprint(public_key),
                retry_seconds=PENDING_RETRY_SECONDS,
            )
        enrolled = _enrol(tx, request, grant, public_key, context)
    # Before the device is told: it subscribes at once, and would never be given what is retained.
    context.access_changed()
    return enrolled


def _grant(
    tx: Transaction, request: EnrolmentRequest, public_key: bytes, now: datetime
) -> tokens.Grant | None:
    """What the device may become; None while a person has yet to decide.

    Raises:
        NotPermitted: no such token, or rejected. Conflict: the name is somebody else's.
    """
    device = request.device
    _refuse_taken_name(tx, device)
    waiting = enrolment_requests.find(tx, device, now)
    if waiting is not None:
        token = tokens.token_sha256(request.token)
        if hmac.compare_digest(waiting.token_sha256, token) and waiting.public_key == public_key:
            return _decided(waiting)
        if waiting.state is State.PENDING:
            raise Conflict(
                f"Another device waits to be enrolled as {device}.",
                next_step="give this one another name, or have the other one rejected: "
                "`mailboat device reject`.",
            )
    # Spent in the same transaction: a refusal below gives the use back.
    grant = tokens.use_token(tx, request.token, now)
    if not grant.approval:
        return grant
    devices.refuse_other_key(tx, device, public_key)
    enrolment_requests.forget(tx, device)
    enrolment_requests.add(
        tx,
        device,
        token_sha256=tokens.token_sha256(request.token),
        public_key=public_key,
        grant=grant,
        at=now,
    )
    audit.append(
        tx,
        at=now,
        actor=f"device:{device}",
        action="device.enrol_request",
        subject=device,
        reason=f"it came with a token of {grant.created_by} that asks for a person's decision",
        details={"fingerprint": fingerprint(public_key), "token_by": grant.created_by},
    )
    return None


def _decided(waiting: EnrolmentRequestRow) -> tokens.Grant | None:
    match waiting.state:
        case State.PENDING:
            return None
        case State.APPROVED:
            return waiting.grant
        case State.REJECTED:
            raise EnrolmentRejected(
                f"{waiting.decided_by} has rejected the enrolment of {waiting.device}.",
                next_step="ask them why, and for a new kit if it was a mistake.",
            )


def _enrol(
    tx: Transaction,
    request: EnrolmentRequest,
    grant: tokens.Grant,
    public_key: bytes,
    context: ApiContext,
) -> EnrolmentResponse:
    now, device = context.now(), request.device
    number = devices.enrol(
        tx,
        device=device,
        hardware_class=grant.hardware_class,
        site=grant.site,
        labels=grant.labels,
        public_key=public_key,
        at=now,
    )
    device_certificates.refuse_key_of_another(tx, device, public_key)
    issued = context.authority.issue_device(
        request.certificate_request,
        device=device,
        enrolment_number=number,
        now=now,
        days=context.settings.device_certificate_days,
    )
    device_certificates.record(
        tx,
        device,
        serial=issued.serial,
        public_key=public_key,
        issued_at=now,
        expires_at=issued.expires_at,
    )
    audit.append(
        tx,
        at=now,
        actor=f"device:{device}",
        action="device.enrol",
        subject=device,
        reason=f"it came with a token of {grant.created_by}",
        details={
            "hardware_class": grant.hardware_class,
            "site": grant.site,
            "enrolment_number": number,
            "labels": dict(grant.labels),
            "certificate_serial": issued.serial,
            "expires_at": issued.expires_at.isoformat(),
            "fingerprint": fingerprint(public_key),
            "public_key": base64.b64encode(public_key).decode(),  # enough to enrol it again
            "token_by": grant.created_by,
        },
    )
    return EnrolmentResponse(
        device=device,
        enrolment_number=number,
        hardware_class=grant.hardware_class,
        site=grant.site,
        labels=dict(grant.labels),
        certificate=issued.certificate.decode(),
    )


def _refuse_taken_name(tx: Transaction, device: str) -> None:
    # The broker knows people, pipelines and devices by the same common name.
    of_a_site = sites.by_name(tx, device) is not None
    if device in RESERVED_NAMES or credentials.has_name(tx, device) or of_a_site:
        raise Conflict(
            f"The name {device} belongs to the controller, a pipeline or a site.",
            next_step="give the device another name.",
        )


def _newest_root(tx: Transaction) -> str:
    root = trust_roles.newest_of(tx, "root")
    if root is None:
        raise NotFound(
            "This controller has no trust root yet, so no device could verify anything.",
            next_step="hold the ceremony with `mailboat trust init` and import it with "
            "`mailboat init --trust`.",
        )
    _version, content, _received_at = root
    return content.decode()
