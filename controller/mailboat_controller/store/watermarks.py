"""Up to where a device's two streams are on our disk, for each epoch of its outbox."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from mailboat_controller.store import tables
from mailboat_controller.store.devices import NAMES_AT_ONCE
from mailboat_controller.store.instants import to_ms
from mailboat_controller.store.many_rows import ManyRows

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


def of_devices(tx: Connection, names: Collection[str]) -> dict[str, dict[str, Watermark]]:
    """As `of_device`, by device; those without any are not there."""
    c = _watermarks.c
    found: dict[str, dict[str, Watermark]] = {}
    ordered = sorted(names)
    for first in range(0, len(ordered), NAMES_AT_ONCE):
        some = c.device.in_(ordered[first : first + NAMES_AT_ONCE])
        rows = tx.execute(select(c.device, c.epoch, c.events, c.telemetry, c.number).where(some))
        for row in rows:
            mark = Watermark(row.events, row.telemetry, row.number)
            found.setdefault(row.device, {})[row.epoch] = mark
    return found


def put_all(
    tx: Connection,
    marks: Mapping[tuple[str, str], Watermark],
    known: Mapping[str, Collection[str]],
    at: datetime,
) -> None:
    """
    Args:
        marks: by device and epoch.
        known: the epochs of each device that have a row already.
    """
    moved: list[tuple[Any, ...]] = []
    first: list[tuple[Any, ...]] = []
    for (device, epoch), mark in marks.items():
        if epoch in known[device] or not known[device]:
            rows = moved if epoch in known[device] else first
            rows.append((device, epoch, *_values(mark, at)))
        else:
            put(tx, device, epoch, mark, at)
    _MOVE.run(tx, moved)
    _INSERT.run(tx, first)


def put(tx: Connection, device: str, epoch: str, watermark: Watermark, at: datetime) -> None:
    c = _watermarks.c
    values = dict(zip(_COLUMNS, _values(watermark, at), strict=True))
    changed = tx.execute(
        update(_watermarks).where(c.device == device, c.epoch == epoch).values(values)
    )
    if changed.rowcount == 0:
        tx.execute(insert(_watermarks).values(device=device, epoch=epoch, **values))
        _forget_oldest(tx, device)


_COLUMNS = ("events", "telemetry", "number", "updated_at")
_INSERT = ManyRows.into(_watermarks, ("device", "epoch", *_COLUMNS))
_MOVE = ManyRows(
    update(_watermarks)
    .where(
        _watermarks.c.device == bindparam("of_device"),
        _watermarks.c.epoch == bindparam("of_epoch"),
    )
    .values({name: bindparam(f"to_{name}") for name in _COLUMNS}),
    ["of_device", "of_epoch"] + [f"to_{name}" for name in _COLUMNS],
)


def _values(mark: Watermark, at: datetime) -> tuple[int, ...]:
    """Of `_COLUMNS`."""
    return mark.events, mark.telemetry, mark.number, to_ms(at)


def _forget_oldest(tx: Connection, device: str) -> None:
    c = _watermarks.c
    newest_first = select(c.epoch).where(c.device == device).order_by(c.updated_at.desc())
    for epoch in tx.execute(newest_first.offset(EPOCHS_PER_DEVICE_MAX)).scalars().all():
        tx.execute(delete(_watermarks).where(c.device == device, c.epoch == epoch))
