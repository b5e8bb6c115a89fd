"""Batches of numbered rows, read so that one row we cannot read does not hold up all behind it.

A device goes on only when a row has been acknowledged. An agent newer than this program may send
kinds of events that it does not know; such a row is kept as it came (`store/events.py`) and read
again by a newer program (`reread`). A batch whose very numbers cannot be read is refused whole, and
stays in the device's outbox.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import Field, ValidationError

from mailboat_controller.store import deliveries, devices, events, outcomes
from mailboat_controller.store.events import UnreadRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.codec import WireModel, decode
from mailboat_schemas.errors import MalformedPayload, PayloadTooLarge
from mailboat_schemas.events import EVENTS_PER_BATCH_MAX, Event, EventBatch
from mailboat_schemas.names import DeviceId
from mailboat_schemas.reports import TelemetryBatch, TelemetryWindow

UNREAD_CODE = "E-ROW-UNREAD"
PROBLEM_LENGTH_MAX = 200
_EPOCH = r"^[0-9a-f]{16}$"
_EVENT_ID = re.compile(r"[a-zA-Z0-9:._-]{1,128}")

Known = TypeVar("Known")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Generic[Known]):
    """Rows numbered on from ``first``."""

    device: str
    epoch: str
    first: int
    rows: tuple[Known | UnreadRow, ...]


class _LooseEvents(WireModel):
    wire_bytes_max: ClassVar[int] = EventBatch.wire_bytes_max
    unpacked_bytes_max: ClassVar[int] = EventBatch.unpacked_bytes_max

    device: DeviceId
    epoch: str = Field(pattern=_EPOCH)
    first: int = Field(ge=1, lt=1 << 62)
    events: tuple[Any, ...] = Field(min_length=1, max_length=EVENTS_PER_BATCH_MAX)


class _LooseTelemetry(WireModel):
    wire_bytes_max: ClassVar[int] = TelemetryBatch.wire_bytes_max
    unpacked_bytes_max: ClassVar[int] = TelemetryBatch.unpacked_bytes_max

    device: DeviceId
    epoch: str = Field(pattern=_EPOCH)
    first: int = Field(ge=1, lt=1 << 62)
    windows: tuple[Any, ...] = Field(min_length=1, max_length=500)


def read_events(payload: bytes) -> Batch[Event]:
    """
    Raises:
        MalformedPayload: not a batch of numbered rows.
    """
    try:
        batch = decode(EventBatch, payload)
    except PayloadTooLarge:
        raise
    except MalformedPayload:
        loose = decode(_LooseEvents, payload)
        rows = _read_each(Event, loose.events, loose.first)
        return Batch(device=loose.device, epoch=loose.epoch, first=loose.first, rows=rows)
    return Batch(device=batch.device, epoch=batch.epoch, first=batch.first, rows=batch.events)


def read_telemetry(payload: bytes) -> Batch[TelemetryWindow]:
    """
    Raises:
        MalformedPayload: not a batch of numbered rows.
    """
    try:
        batch = decode(TelemetryBatch, payload)
    except PayloadTooLarge:
        raise
    except MalformedPayload:
        loose = decode(_LooseTelemetry, payload)
        rows = _read_each(TelemetryWindow, loose.windows, loose.first)
        return Batch(device=loose.device, epoch=loose.epoch, first=loose.first, rows=rows)
    return Batch(device=batch.device, epoch=batch.epoch, first=batch.first, rows=batch.windows)


def reread(tx: Transaction, now: datetime) -> int:
    """Read what an older program kept as it came, and act on it; returns how many rows."""
    count, after = 0, 0
    while rows := events.unread(tx, after=after):
        after = rows[-1].id
        # Other processes may be taking in what the same devices say.
        devices.lock(tx, {row.device for row in rows})
        for row in rows:
            try:
                event = Event.model_validate(row.content)
            except ValidationError:
                continue
            events.replace_unread(tx, row.id, event)
            outcomes.fold(tx, row.device, [event], now)
            device = devices.by_name(tx, row.device)
            if device is not None:
                deliveries.fold(tx, device.hardware_class, [event])
            count += 1
    return count


Model = TypeVar("Model", bound=WireModel)


def _read_each(kind: type[Model], rows: Sequence[Any], first: int) -> tuple[Model | UnreadRow, ...]:
    read: list[Model | UnreadRow] = []
    for place, row in enumerate(rows):
        try:
            read.append(kind.model_validate(row))
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            read.append(
                UnreadRow(
                    # Its own number where it has one, so that a gap is noticed here too.
                    sequence=_sequence(row, first + place),
                    event_id=_event_id(row),
                    content=row,
                    problem=f"{where}: {problem['msg']}"[:PROBLEM_LENGTH_MAX],
                )
            )
    return tuple(read)


def _event_id(row: object) -> str:
    name = row.get("event_id") if isinstance(row, dict) else None
    return name if isinstance(name, str) and _EVENT_ID.fullmatch(name) else ""


def _sequence(row: object, otherwise: int) -> int:
    number = row.get("sequence") if isinstance(row, dict) else None
    return number if isinstance(number, int) and not isinstance(number, bool) else otherwise
