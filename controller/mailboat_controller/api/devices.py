"""The fleet's devices: what each last said, what it did, and cutting one off."""

import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from mailboat_controller.api.context import ApiContext, Context
from mailboat_controller.api.identity import Operator, Reader
from mailboat_controller.api.limits import NUMBER_MAX, OptionalReason, Reason
from mailboat_controller.api.pages import Paged, first_of
from mailboat_controller.explaining.selection import select
from mailboat_controller.presence import Presence, Reach, in_words, standing
from mailboat_controller.sites.reach import reach_by_site
from mailboat_controller.store import audit, devices, enrolment_requests, events
from mailboat_controller.store.class_counts import when_disconnected
from mailboat_controller.store.device_certificates import key_sha256
from mailboat_controller.store.enrolment_requests import EnrolmentRequestRow, State
from mailboat_controller.store.instants import to_ms
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas import selectors
from mailboat_schemas.documents.hardware_class import WhenDisconnected
from mailboat_schemas.enrolment import fingerprint
from mailboat_schemas.errors import NotPermitted
from mailboat_schemas.names import ClassName, DeviceId, SiteName
from mailboat_schemas.tracing import trace_id

PAGE_ROWS_MAX = 1000
DECISIONS = {State.APPROVED: "device.approve", State.REJECTED: "device.reject"}

router = APIRouter(prefix="/v1/devices", tags=["devices"])

After = Annotated[int, Query(ge=0, le=NUMBER_MAX, description="the last number of the page before")]
SelectorText = Annotated[
    str, Query(max_length=selectors.SELECTOR_CHARS_MAX, description="class=kiosk,site in (a,b)")
]
Limit = Annotated[int, Query(ge=1, le=PAGE_ROWS_MAX)]
Prefix = Annotated[
    str, Query(pattern=r"^[a-z0-9-]{0,63}$", description="what their names begin with")
]


class Device(BaseModel):
    device: str
    enrolment_number: int
    hardware_class: str
    site: str
    labels: dict[str, str]
    fingerprint: str  # of its key
    revoked: bool
    online: bool | None  # as last told; null: never heard of, which is not offline
    presence: Presence  # what we can say of now
    presence_since: datetime | None
    presence_because: str
    clock_offset_seconds: float | None  # the device's clock less the controller's
    clock_seen_at: datetime | None
    doubled_at: datetime | None  # it last showed that two devices seem to have this id
    doubled_by: str | None
    enrolled_at: datetime
    last_seen_at: datetime | None
    certificate_expires_at: datetime
    manifest_counter: int
    report: dict[str, Any] | None


class DeviceEvent(BaseModel):
    id: int
    sequence: int
    epoch: str
    kind: str
    model: str | None
    version: str | None
    received_at: datetime  # by the controller's clock
    observed_at_ms: int  # by the device's, since 1970 UTC; it decides nothing
    content: dict[str, Any]
    trace_id: str | None  # of the release it is about


class Revocation(BaseModel):
    reason: Reason


class Rejection(BaseModel):
    reason: Reason


class DeviceApproval(BaseModel):
    fingerprint: str = Field(max_length=128, description="as the device shows it")
    reason: OptionalReason = ""


class PendingDevice(BaseModel):
    device: str
    fingerprint: str
    hardware_class: str
    site: str
    labels: dict[str, str]
    state: str  # pending | approved | rejected
    token_by: str
    requested_at: datetime


class FingerprintDiffers(NotPermitted):
    code = "E-FINGERPRINT"


@router.get("")
def list_devices(
    _reader: Reader,
    context: Context,
    request: Request,
    response: Response,
    hardware_class: ClassName | None = None,
    site: SiteName | None = None,
    selector: SelectorText = "",
    prefix: Prefix = "",
    after: After = 0,
    limit: Limit = 100,
) -> list[Device]:
    """A page by enrolment number, of all or of the devices that a selector names."""
    reach, wanted = context.reach(), selectors.parse(selector)
    bounds: dict[str, Any] = {"after": after, "limit": limit + 1}
    bounds |= {"hardware_class": hardware_class, "site": site, "prefix": prefix}
    with context.store.read() as tx:
        if wanted.requirements:
            found = tuple(select(tx, wanted, reach, context.now(), **bounds))
        else:
            found = devices.list_page(tx, **bounds)
        rows = first_of(found, limit, request, response, after=lambda row: row.enrolment_number)
        links = reach_by_site(tx, {row.site for row in rows}, context.now())
        means = when_disconnected(tx)
    return [_shown(row, reach, links, means) for row in rows]


@router.get("/pending")
def list_pending(_reader: Reader, paging: Paged, context: Context) -> list[PendingDevice]:
    """Enrolments that wait for a person, oldest first. No device can be called `pending`."""
    with context.store.read() as tx:
        rows = enrolment_requests.pending(tx, context.now())
    page = paging.cut(rows, lambda row: (to_ms(row.requested_at), row.device))
    return [_waiting(row) for row in page]


@router.post("/{device}/approve")
def approve_device(
    device: DeviceId, approval: DeviceApproval, operator: Operator, context: Context
) -> PendingDevice:
    """Let a waiting device in whose key has the fingerprint that the operator has compared."""
    with context.store.transaction() as tx:
        row = enrolment_requests.get(tx, device, context.now())
        shown = "".join(approval.fingerprint.lower().split()).encode()
        if not hmac.compare_digest(shown, key_sha256(row.public_key).encode()):
            raise FingerprintDiffers(
                f"The key that asks to be enrolled as {device} has another fingerprint.",
                next_step="compare again; if the device really shows this one, somebody else asks "
                "under its name: reject it.",
            )
        return _decide(tx, device, State.APPROVED, approval.reason, str(operator), context)


@router.post("/{device}/reject")
def reject_device(
    device: DeviceId, rejection: Rejection, operator: Operator, context: Context
) -> PendingDevice:
    """Keep a waiting device out."""
    with context.store.transaction() as tx:
        return _decide(tx, device, State.REJECTED, rejection.reason, str(operator), context)


@router.get("/{device}")
def get_device(device: DeviceId, _reader: Reader, context: Context) -> Device:
    """One device: what it is, and what it last said."""
    with context.store.read() as tx:
        row = devices.get(tx, device)
        links = reach_by_site(tx, {row.site}, context.now())
        return _shown(row, context.reach(), links, when_disconnected(tx))


@router.get("/{device}/events")
def list_events(
    device: DeviceId,
    _reader: Reader,
    context: Context,
    request: Request,
    response: Response,
    after: After = 0,
    limit: Limit = 100,
) -> list[DeviceEvent]:
    """State events in the order they were stored."""
    with context.store.read() as tx:
        devices.get(tx, device)
        found = events.page(tx, device, after=after, limit=limit + 1)
    rows = first_of(found, limit, request, response, after=lambda row: row.id)
    return [
        DeviceEvent(
            id=row.id,
            sequence=row.sequence,
            epoch=row.epoch,
            kind=row.kind,
            model=row.model,
            version=row.version,
            received_at=row.received_at,
            observed_at_ms=row.observed_at_ms,
            content=dict(row.content),
            trace_id=None if row.digest is None else trace_id(row.digest),
        )
        for row in rows
    ]


@router.post("/{device}/revoke")
def revoke_device(
    device: DeviceId, revocation: Revocation, operator: Operator, context: Context
) -> Device:
    """Cut a device off for good: the API refuses it from here on, the broker within seconds."""
    now = context.now()
    with context.store.transaction() as tx:
        if devices.revoke(tx, device):
            audit.append(
                tx,
                at=now,
                actor=str(operator),
                action="device.revoke",
                subject=device,
                reason=revocation.reason,
                details={"before": {"revoked": False}, "after": {"revoked": True}},
            )
        row = devices.get(tx, device)
        links = reach_by_site(tx, {row.site}, now)
        means = when_disconnected(tx)
    context.access_changed()
    context.wake()
    return _shown(row, context.reach(), links, means)


def _shown(
    row: devices.DeviceRow,
    reach: Reach,
    links: Mapping[str, Reach],
    means: Mapping[str, WhenDisconnected],
) -> Device:
    stands = standing(row, reach, links.get(row.site, Reach()))
    offset_ms = row.clock_offset_ms
    return Device(
        device=row.device,
        enrolment_number=row.enrolment_number,
        hardware_class=row.hardware_class,
        site=row.site,
        labels=dict(row.labels),
        fingerprint=fingerprint(row.public_key),
        revoked=row.revoked,
        online=row.online,
        presence=stands.presence,
        presence_since=stands.since,
        presence_because=in_words(stands, means.get(row.hardware_class, WhenDisconnected.NORMAL)),
        clock_offset_seconds=None if offset_ms is None else offset_ms / 1000,
        clock_seen_at=row.clock_seen_at,
        doubled_at=row.doubled_at,
        doubled_by=row.doubled_by,
        enrolled_at=row.enrolled_at,
        last_seen_at=row.last_seen_at,
        certificate_expires_at=row.certificate_expires_at,
        manifest_counter=row.manifest_counter,
        report=None if row.report is None else dict(row.report),
    )


def _decide(
    tx: Transaction, device: str, state: State, reason: str, operator: str, context: ApiContext
) -> PendingDevice:
    now = context.now()
    if enrolment_requests.decide(tx, device, state, by=operator, now=now):
        audit.append(
            tx,
            at=now,
            actor=operator,
            action=DECISIONS[state],
            subject=device,
            reason=reason,
        )
    return _waiting(enrolment_requests.get(tx, device, now))


def _waiting(row: EnrolmentRequestRow) -> PendingDevice:
    return PendingDevice(
        device=row.device,
        fingerprint=fingerprint(row.public_key),
        hardware_class=row.hardware_class,
        site=row.site,
        labels=dict(row.labels),
        state=row.state,
        token_by=row.token_by,
        requested_at=row.requested_at,
    )
