"""Telemetry windows as devices summarised them: append-only, forgotten after a while."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, func, insert, select

from mailboat_controller.store import tables
from mailboat_controller.store.events import OBSERVED_MS_MAX
from mailboat_controller.store.instants import to_ms
from mailboat_controller.store.plain_json import plain
from mailboat_schemas.reports import TelemetryWindow

KEPT = timedelta(days=30)  # history beyond it belongs into Prometheus or an export

_telemetry = tables.telemetry


def append(
    tx: Connection,
    device: str,
    epoch: str,
    windows: Sequence[TelemetryWindow],
    received_at: datetime,
) -> None:
    if not windows:
        return
    tx.execute(
        insert(_telemetry),
        [
            {
                "device": device,
                "epoch": epoch,
                "sequence": window.sequence,
                "model": window.model,
                "version": window.version,
                "digest": window.digest,
                "started_at": max(0, min(window.started_at, OBSERVED_MS_MAX)),
                "content": plain(window.model_dump(mode="python")),
                "received_at": to_ms(received_at),
            }
            for window in windows
        ],
    )


def forget(tx: Connection, now: datetime) -> int:
    """Drop windows received longer than `KEPT` ago; returns how many."""
    limit = to_ms(now - KEPT)
    return tx.execute(delete(_telemetry).where(_telemetry.c.received_at < limit)).rowcount


def count(tx: Connection) -> int:
    return tx.execute(select(func.count()).select_from(_telemetry)).scalar_one()
