"""Enrolment: operators make kits, devices spend them."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from mailboat_controller.api.context import ApiContext, Context
from mailboat_controller.api.identity import Operator
from mailboat_controller.api.limits import PRINTED
from mailboat_controller.pki.certificates import public_key_of_request
from mailboat_controller.store import audit, classes, credentials, devices, tokens, trust_roles
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.enrolment import EnrolmentKit, EnrolmentRequest, EnrolmentResponse
from mailboat_schemas.errors import Conflict, NotFound
from mailboat_schemas.names import DIRECT_SITE, RESERVED_NAMES, ClassName, Label, SiteName

USES_MAX = 10_000
HOURS_MAX = 24 * 30  # a kit in a drawer for longer is a secret nobody watches

router = APIRouter(prefix="/v1", tags=["enrolment"])


class TokenOrder(BaseModel):
    """What an operator asks a kit for."""

    hardware_class: ClassName
    site: SiteName = DIRECT_SITE
    labels: dict[Label, Annotated[str, Field(max_length=256, pattern=PRINTED)]] = Field(
        default_factory=dict, max_length=32
    )
    uses: int = Field(default=1, ge=1, le=USES_MAX)
    hours: float = Field(default=24, gt=0, le=HOURS_MAX)


@router.post("/enrolment-tokens", status_code=201)
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
        )
        audit.append(
            tx,
            at=now,
            actor=str(operator),
            action="enrolment_token.create",
            subject=order.hardware_class,
            details=order.model_dump(mode="json"),
        )
        root = _newest_root(tx)
    return EnrolmentKit(
        fleet=context.settings.fleet,
        hardware_class=order.hardware_class,
        site=order.site,
        labels=order.labels,
        api_url=context.api_url,
        mqtt_host=context.mqtt_host,
        mqtt_port=context.mqtt_port,
        ca=context.authority.ca_pem.decode(),
        trust_root=root,
        token=token,
    )


@router.post("/enrol", status_code=201)
def enrol(request: EnrolmentRequest, context: Context) -> EnrolmentResponse:
    """A device's first certificate, for its token. The only write that needs no certificate."""
    public_key = public_key_of_request(request.certificate_request)
    with context.store.transaction() as tx:
        return _enrol(tx, request, public_key, context)


def _enrol(
    tx: Transaction, request: EnrolmentRequest, public_key: bytes, context: ApiContext
) -> EnrolmentResponse:
    now, device = context.now(), request.device
    # Spent in the same transaction: a refusal below gives the use back.
    grant = tokens.use_token(tx, request.token, now)
    _refuse_taken_name(tx, device)
    number = devices.enrol(
        tx,
        device=device,
        hardware_class=grant.hardware_class,
        site=grant.site,
        labels=grant.labels,
        public_key=public_key,
        at=now,
    )
    issued = context.authority.issue_device(
        request.certificate_request,
        device=device,
        enrolment_number=number,
        now=now,
        days=context.settings.device_certificate_days,
    )
    devices.set_certificate(tx, device, serial=issued.serial, expires_at=issued.expires_at)
    audit.append(
        tx,
        at=now,
        actor=f"device:{device}",
        action="device.enrol",
        subject=device,
        details={
            "hardware_class": grant.hardware_class,
            "site": grant.site,
            "enrolment_number": number,
            "certificate_serial": issued.serial,
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
    if device in RESERVED_NAMES or credentials.has_name(tx, device):
        raise Conflict(
            f"The name {device} belongs to the controller, a person or a pipeline.",
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
