"""When devices were heard of, out of what they sent: for their habits."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from sqlalchemy import Connection, select

from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.tables import events, telemetry

DEVICES_AT_ONCE = 500
ROWS_AT_ONCE_MAX = 200_000  # of some 500 devices: 400 contacts each


def since(
    tx: Connection, devices: Sequence[str], start: datetime
) -> Iterator[tuple[str, datetime]]:
    """Device and instant, in no order; of very talkative devices the newest instants."""
    for first in range(0, len(devices), DEVICES_AT_ONCE):
        some = devices[first : first + DEVICES_AT_ONCE]
        for table in (events, telemetry):
            c = table.c
            query = (
                select(c.device, c.received_at)
                .where(c.device.in_(some), c.received_at >= to_ms(start))
                .order_by(c.received_at.desc())
                .limit(ROWS_AT_ONCE_MAX)
            )
            for device, instant in tx.execute(query):
                yield device, from_ms(instant)
