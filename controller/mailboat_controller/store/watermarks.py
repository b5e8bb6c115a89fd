"""Up to where a device's two streams are on our disk, for each epoch of its outbox."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from mailboat_controller.store import tables
from mailboat_controller.store.instants import to_ms

# A device that keeps losing its journal must not fill the table. Its oldest epochs are forgotten;
# should one come back, its events are still known by their ids.
EPOCHS_PER_DEVICE_MAX = 64

_watermarks = tables.watermarks


@dataclass(frozen=True, slots=True)
class Watermark:
    """Highest sequences without a gap below them; 0 = nothing yet.

    ``number``: the epochs of a device in the order they began, from 1.
    """

    events: int = 0
    telemetry: int = 0
    number: int = 1


def of_device(tx: Connection, device: str) -> dict[str, Watermark]:
    """By epoch. More than one means that the device once lost its journal."""
    c = _watermarks.c
    rows = tx.execute(select(c.epoch, c.events, c.telemetry, c.number).where(c.device == device))
    return {row.epoch: Watermark(row.events, row.telemetry, row.number) for row in rows}


def put(tx: Connection, device: str, epoch: str, watermark: Watermark, at: datetime) -> None:
    c = _watermarks.c
    values = {
        "events": watermark.events,
        "telemetry": watermark.telemetry,
        "number": watermark.number,
        "updated_at": to_ms(at),
    }
    changed = tx.execute(
        update(_watermarks).where(c.device == device, c.epoch == epoch).values(values)
    )
    if changed.rowcount == 0:
        tx.execute(insert(_watermarks).values(device=device, epoch=epoch, **values))
        _forget_oldest(tx, device)


def _forget_oldest(tx: Connection, device: str) -> None:
    c = _watermarks.c
    newest_first = select(c.epoch).where(c.device == device).order_by(c.updated_at.desc())
    for epoch in tx.execute(newest_first.offset(EPOCHS_PER_DEVICE_MAX)).scalars().all():
        tx.execute(delete(_watermarks).where(c.device == device, c.epoch == epoch))
