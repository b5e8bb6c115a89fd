"""Devices renew their certificates: with the one they have, or with proof of its key."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from mailboat_controller.api.authentication import certificate_of
from mailboat_controller.api.context import Context, context_of
from mailboat_controller.api.identity import CertificateRequired, Device
from mailboat_controller.pki.certificates import public_key_of
from mailboat_controller.pki.renewal import Renewals, Terms
from mailboat_schemas.enrolment import (
    Challenge,
    ChallengeRequest,
    ProvenRenewalRequest,
    RenewalRequest,
    RenewalResponse,
)

router = APIRouter(prefix="/v1", tags=["enrolment"])


class Confirmation(BaseModel):
    device: str
    changed: bool  # another key counts from now on


def _renewals(request: Request) -> Renewals:
    """One for the life of the app: it remembers which challenges were used."""
    held: Renewals | None = getattr(request.app.state, "renewals", None)
    if held is None:
        context = context_of(request)
        terms = Terms(
            fleet=context.settings.fleet,
            certificate_days=context.settings.device_certificate_days,
            grace_days=context.settings.renewal_grace_days,
        )
        held = request.app.state.renewals = Renewals(context.store, context.authority, terms)
    return held


RenewalsOf = Annotated[Renewals, Depends(_renewals)]


@router.post("/devices/self/certificate", status_code=201)
def renew(
    request: RenewalRequest, device: Device, renewals: RenewalsOf, context: Context
) -> RenewalResponse:
    """A new certificate for the device that asks, for its key or for a new one."""
    return renewals.renew(device.name, request.certificate_request, now=context.now())


@router.post("/devices/self/certificate/confirmation")
def confirm(
    request: Request, device: Device, renewals: RenewalsOf, context: Context
) -> Confirmation:
    """To be sent with the new certificate once it is stored: from here on the old key counts no
    more. May be sent again."""
    certificate = certificate_of(request.scope)
    if certificate is None:  # `Device` has seen it
        raise CertificateRequired("There is no certificate.", next_step="report this as a bug.")
    changed = renewals.confirm(device.name, public_key_of(certificate), now=context.now())
    return Confirmation(device=device.name, changed=changed)


@router.post("/renewal-challenges", status_code=201)
def challenge(request: ChallengeRequest, renewals: RenewalsOf, context: Context) -> Challenge:
    """For a device whose certificate has ended. Says nothing about whether there is such a
    device."""
    return renewals.challenge(request.device, now=context.now())


@router.post("/renewals", status_code=201)
def renew_proven(
    request: ProvenRenewalRequest, renewals: RenewalsOf, context: Context
) -> RenewalResponse:
    """A new certificate for whoever signs a challenge with the device's registered key."""
    return renewals.renew_proven(request, now=context.now())
