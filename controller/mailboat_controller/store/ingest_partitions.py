"""Who takes in which share of the devices, told by the processes themselves every few seconds."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, select

from mailboat_controller.store import tables
from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.upsert import upsert

_partitions = tables.ingest_partitions


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionRow:
    """``changes`` counts batches that a rollout may decide otherwise on; it starts anew at 0."""

    partition: int
    partitions: int
    holder: str
    broker_connected: bool
    changes: int
    beat_at: datetime


def beat(tx: Connection, row: PartitionRow) -> None:
    values = {
        "partitions": row.partitions,
        "holder": row.holder[:128],
        "broker_connected": row.broker_connected,
        "changes": row.changes,
        "beat_at": to_ms(row.beat_at),
    }
    tx.execute(
        upsert(tx, _partitions)
        .values(partition=row.partition, **values)
        .on_conflict_do_update(index_elements=["partition"], set_=values)
    )


def every(tx: Connection) -> tuple[PartitionRow, ...]:
    rows = tx.execute(select(_partitions).order_by(_partitions.c.partition))
    return tuple(PartitionRow(**{**row._mapping, "beat_at": from_ms(row.beat_at)}) for row in rows)


def forget_from(tx: Connection, partitions: int) -> None:
    """Of partitions that are not any more."""
    tx.execute(delete(_partitions).where(_partitions.c.partition >= partitions))
