"""The fleet's devices: what each last said, what it did, and cutting one off."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Operator, Reader
from mailboat_controller.api.limits import NUMBER_MAX, Reason
from mailboat_controller.store import audit, devices, events
from mailboat_schemas.names import ClassName, DeviceId, SiteName

PAGE_ROWS_MAX = 1000

router = APIRouter(prefix="/v1/devices", tags=["devices"])

After = Annotated[int, Query(ge=0, le=NUMBER_MAX, description="the last number of the page before")]
Limit = Annotated[int, Query(ge=1, le=PAGE_ROWS_MAX)]


class Device(BaseModel):
    device: str
    enrolment_number: int
    hardware_class: str
    site: str
    labels: dict[str, str]
    revoked: bool
    online: bool | None  # null: never heard of, which is not offline
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
    received_at: datetime
    content: dict[str, Any]


class Revocation(BaseModel):
    reason: Reason


@router.get("")
def list_devices(
    _reader: Reader,
    context: Context,
    hardware_class: ClassName | None = None,
    site: SiteName | None = None,
    after: After = 0,
    limit: Limit = 100,
) -> list[Device]:
    """A page by enrolment number."""
    with context.store.read() as tx:
        rows = devices.list_page(
            tx, after=after, limit=limit, hardware_class=hardware_class, site=site
        )
    return [_shown(row) for row in rows]


@router.get("/{device}")
def get_device(device: DeviceId, _reader: Reader, context: Context) -> Device:
    with context.store.read() as tx:
        return _shown(devices.get(tx, device))


@router.get("/{device}/events")
def list_events(
    device: DeviceId, _reader: Reader, context: Context, after: After = 0, limit: Limit = 100
) -> list[DeviceEvent]:
    """State events in the order they were stored."""
    with context.store.read() as tx:
        devices.get(tx, device)
        rows = events.page(tx, device, after=after, limit=limit)
    return [
        DeviceEvent(
            id=row.id,
            sequence=row.sequence,
            epoch=row.epoch,
            kind=row.kind,
            model=row.model,
            version=row.version,
            received_at=row.received_at,
            content=dict(row.content),
        )
        for row in rows
    ]


@router.post("/{device}/revoke")
def revoke_device(
    device: DeviceId, revocation: Revocation, operator: Operator, context: Context
) -> Device:
    """Cut a device off for good: API and controller refuse it from here on.

    An open broker connection lasts until the broker is told; broker-config/mosquitto/README.md.
    """
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
            )
        row = devices.get(tx, device)
    context.wake()
    return _shown(row)


def _shown(row: devices.DeviceRow) -> Device:
    return Device(
        device=row.device,
        enrolment_number=row.enrolment_number,
        hardware_class=row.hardware_class,
        site=row.site,
        labels=dict(row.labels),
        revoked=row.revoked,
        online=row.online,
        enrolled_at=row.enrolled_at,
        last_seen_at=row.last_seen_at,
        certificate_expires_at=row.certificate_expires_at,
        manifest_counter=row.manifest_counter,
        report=None if row.report is None else dict(row.report),
    )
