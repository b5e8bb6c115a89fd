"""The one order that stands for a device, composed from everything that is stored about it.

It is one retained message, so whoever changes a part of it (a request for the log, a hold, a pin)
queues the whole anew. Signed by the director, under a counter that only goes up.
"""

from collections.abc import Callable
from datetime import datetime

from mailboat_controller.store import (
    devices,
    drills,
    fleet_documents,
    log_requests,
    outbox,
    overrides,
)
from mailboat_controller.store.log_requests import LogRequestRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.device_orders import DeviceDesired, LogRequest
from mailboat_schemas.documents.fleet_document import Level
from mailboat_schemas.errors import MalformedPayload, PayloadTooLarge
from mailboat_schemas.fleet_documents import Place
from mailboat_schemas.topics import TOPICS, Channel, build
from mailboat_schemas.trust import FLEET_ROLES


class OrderTooLarge(PayloadTooLarge):
    """All that stands for one device, together with what is asked now: nothing has changed."""

    code = "E-ORDER-TOO-LARGE"

    def __init__(self, order: DeviceDesired) -> None:
        documents_bytes = sum(map(len, order.documents.values()))
        MalformedPayload.__init__(
            self,
            f"All that stands for device {order.device} is one message, and with this it would "
            f"not fit into {DeviceDesired.wire_bytes_max} bytes: {len(order.holds)} holds, "
            f"{len(order.pins)} pins, {len(order.drills)} drills, {documents_bytes} bytes of "
            "config.",
            next_step="take back what is not needed, give shorter reasons, or say for its class "
            "what its config says.",
        )


def next_counter(tx: Transaction, device: str, now: datetime) -> int:
    """Above every one that was given, also after rows were dropped: it goes with the clock."""
    given = max(log_requests.newest_counter(tx, device), overrides.newest_counter(tx, device))
    return max(int(now.timestamp() * 1000), given + 1)


def queue_order(
    tx: Transaction,
    device: str,
    counter: int,
    *,
    fleet: str,
    sign: Callable[[DeviceDesired], bytes],
    now: datetime,
) -> None:
    """Queue what stands for the device now, in the caller's transaction.

    Args:
        counter: of `next_counter`, or one that was given already if nothing has changed; never
            below the newest.

    Raises:
        NotFound: there is no such device.
    """
    counter = max(counter, overrides.newest_counter(tx, device))
    overrides.note_counter(tx, device, counter)
    rows = overrides.of_device(tx, device)
    order = DeviceDesired(
        fleet=fleet,
        device=device,
        counter=counter,
        issued=int(now.timestamp()),
        logs=_log_request(tx, device, now),
        holds=tuple(row.hold for row in rows if row.kind == overrides.HOLD),
        pins=tuple(pin for row in rows if (pin := row.pin) is not None),
        drills=tuple(row.drill for row in drills.standing(tx, device, now)),
        documents=_documents(tx, device),
    )
    rule = TOPICS[Channel.DESIRED]
    site = devices.get(tx, device).site
    outbox.put(
        tx,
        topic=build(Channel.DESIRED, fleet=fleet, site=site, device=device),
        payload=_signed(order, sign),
        qos=rule.qos,
        retain=rule.retain,
        now=now,
    )


def _signed(order: DeviceDesired, sign: Callable[[DeviceDesired], bytes]) -> bytes:
    """
    Raises:
        OrderTooLarge
    """
    try:
        return sign(order)
    except PayloadTooLarge as error:
        raise OrderTooLarge(order) from error


def devices_with_documents(tx: Transaction) -> set[str]:
    """Devices in force for which people signed a document."""
    listed = {place for role in FLEET_ROLES for place in fleet_documents.in_force(tx, role)}
    named = {place.target for place in listed if place.level is Level.DEVICE}
    found = {device: devices.by_name(tx, device) for device in named}
    return {device for device, row in found.items() if row is not None and not row.revoked}


def _documents(tx: Transaction, device: str) -> dict[str, bytes]:
    """Those that people signed for it alone; the roles that list them come with its class."""
    listed = [
        found
        for role in FLEET_ROLES
        if (found := fleet_documents.in_force(tx, role).get(Place(role, Level.DEVICE, device)))
    ]
    return fleet_documents.documents_of(tx, listed)


def _log_request(tx: Transaction, device: str, now: datetime) -> LogRequest | None:
    for row in log_requests.of_device(tx, device):
        if not row.withdrawn and row.state(now) in ("waiting", "answering"):
            return _request(row)
    return None


def _request(row: LogRequestRow) -> LogRequest:
    return LogRequest(
        request=row.request,
        expires=int(row.expires_at.timestamp()),
        since=row.since,
        follow_seconds=row.follow_seconds,
    )
