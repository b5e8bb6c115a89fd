"""The one order that stands for a device, composed from everything that is stored about it.

It is one retained message, so whoever changes a part of it (a request for the log, a hold, a pin)
queues the whole anew. Signed by the director, under a counter that only goes up.
"""

from collections.abc import Callable
from datetime import datetime

from mailboat_controller.store import devices, log_requests, outbox, overrides
from mailboat_controller.store.log_requests import LogRequestRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.device_orders import DeviceDesired, LogRequest
from mailboat_schemas.topics import TOPICS, Channel, build


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
    )
    rule = TOPICS[Channel.DESIRED]
    site = devices.get(tx, device).site
    outbox.put(
        tx,
        topic=build(Channel.DESIRED, fleet=fleet, site=site, device=device),
        payload=sign(order),
        qos=rule.qos,
        retain=rule.retain,
        now=now,
    )


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
