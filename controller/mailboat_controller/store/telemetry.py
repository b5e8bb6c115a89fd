"""Telemetry windows as devices summarised them: append-only, merged and forgotten in time
(`retention`)."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, select

from mailboat_controller.store import tables
from mailboat_controller.store.events import OBSERVED_MS_MAX
from mailboat_controller.store.instants import to_ms
from mailboat_controller.store.many_rows import ManyRows
from mailboat_controller.store.plain_json import packed, plain
from mailboat_schemas.reports import TelemetryWindow

BUFFERED_MAX = timedelta(days=400)  # no outbox holds anything for longer

_telemetry = tables.telemetry
_AS_SENT = 0  # the level of a window that was not merged here
_INSERT = ManyRows.into(
    _telemetry,
    (
        "device",
        "epoch",
        "sequence",
        "model",
        "version",
        "digest",
        "started_at",
        "content",
        "received_at",
        "began_at",
        "level",
    ),
)


def append(
    tx: Connection,
    device: str,
    epoch: str,
    windows: Sequence[TelemetryWindow],
    received_at: datetime,
    *,
    clock_offset_ms: int = 0,
) -> None:
    """
    Args:
        clock_offset_ms: the device's clock less ours, as far as it is known.
    """
    write(tx, rows_of(device, epoch, windows, received_at, clock_offset_ms=clock_offset_ms))


def rows_of(
    device: str,
    epoch: str,
    windows: Sequence[TelemetryWindow],
    received_at: datetime,
    *,
    clock_offset_ms: int = 0,
) -> list[tuple[Any, ...]]:
    """For `write`, which takes those of many devices at once; arguments as of `append`."""
    received_ms = to_ms(received_at)
    return [
        (
            device,
            epoch,
            window.sequence,
            window.model,
            window.version,
            window.digest,
            max(0, min(window.started_at, OBSERVED_MS_MAX)),
            packed(plain(window.model_dump(mode="python"))),
            received_ms,
            _began_ms(window.started_at - clock_offset_ms, received_at),
            _AS_SENT,
        )
        for window in windows
    ]


def write(tx: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    _INSERT.run(tx, rows)


def _began_ms(started_ms: int, received_at: datetime) -> int:
    """By our clock. A device without a clock of its own says 1970, and one set wrong 2100."""
    received_ms = to_ms(received_at)
    earliest_ms = to_ms(received_at - BUFFERED_MAX)
    return started_ms if earliest_ms <= started_ms <= received_ms else received_ms


def count(tx: Connection) -> int:
    return tx.execute(select(func.count()).select_from(_telemetry)).scalar_one()
