"""Old rows thinned, a bounded step at a time: each step is one short transaction, and waits for
another that has not ended (a leader that does not know yet that it is none).

What is promised stays (docs/retention.md); the audit chain, outcomes and watermarks are never
thinned. Events go by the time of receipt, which is our clock; windows by when they began by our
clock. So a device cannot have its history kept or dropped by what it says of the time.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, Row, delete, insert, select, update

from mailboat_controller.store import fleet_sums, locks, tables
from mailboat_controller.store.instants import to_ms
from mailboat_controller.store.plain_json import plain
from mailboat_controller.store.upsert import upsert
from mailboat_schemas.reports import TelemetryWindow
from mailboat_schemas.window_merge import merge_windows

ROWS_PER_STEP_MAX = 500  # some tens of milliseconds of one writer
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
LEVEL_SENT, LEVEL_HOUR, LEVEL_DAY = 0, 1, 2
SPAN_MS = {LEVEL_HOUR: HOUR_MS, LEVEL_DAY: DAY_MS}
MERGED_EPOCH = ""  # a merged window has no place in an outbox
_STRIPPED = "events-stripped"  # of the row that says up to which event words were taken

_events, _telemetry, _retention = tables.events, tables.telemetry, tables.retention


@dataclass(frozen=True, slots=True)
class Step:
    """``rows`` were looked at; ``more`` may wait."""

    rows: int
    more: bool


def strip_events(tx: Connection, *, older_than: datetime) -> Step:
    """Take words and evidence from events received before; who, what and when stay.

    Rows that this program cannot read stay whole for one that can.
    """
    locks.hold_until_commit(tx, locks.RETENTION_KEY)
    c = _events.c
    reached = tx.execute(
        select(_retention.c.reached).where(_retention.c.name == _STRIPPED)
    ).scalar()
    rows = tx.execute(
        select(c.id, c.kind, c.received_at)
        .where(c.id > (reached or 0))
        .order_by(c.id)
        .limit(ROWS_PER_STEP_MAX)
    ).fetchall()
    old = _before(rows, to_ms(older_than))
    if not old:
        return Step(0, more=False)
    read = [row.id for row in old if row.kind != tables.UNKNOWN_KIND]
    tx.execute(update(_events).where(c.id.in_(read)).values(content={}))
    values = {"reached": old[-1].id}
    tx.execute(
        upsert(tx, _retention)
        .values(name=_STRIPPED, **values)
        .on_conflict_do_update(index_elements=["name"], set_=values)
    )
    return Step(len(old), more=len(old) == ROWS_PER_STEP_MAX)


def drop_events(tx: Connection, *, older_than: datetime) -> Step:
    """Forget events received before, altogether."""
    locks.hold_until_commit(tx, locks.RETENTION_KEY)
    c = _events.c
    rows = tx.execute(
        select(c.id, c.received_at).order_by(c.id).limit(ROWS_PER_STEP_MAX)
    ).fetchall()
    old = _before(rows, to_ms(older_than))
    if old:
        tx.execute(delete(_events).where(c.id.in_([row.id for row in old])))
    return Step(len(old), more=len(old) == ROWS_PER_STEP_MAX)


def merge_telemetry(tx: Connection, *, level: int, older_than: datetime) -> Step:
    """Make windows that began before into one for each hour or day, device, release and workload.

    Windows that come late are merged into the hour or day that is there. Coverage stays, and every
    sum; see `merge_windows`.

    Args:
        level: `LEVEL_HOUR`, out of windows as sent; or `LEVEL_DAY`, out of hours.
    """
    locks.hold_until_commit(tx, locks.RETENTION_KEY)
    c, span_ms = _telemetry.c, SPAN_MS[level]
    # Whole hours or days alone, or the newest would be merged again and again.
    limit_ms = to_ms(older_than) // span_ms * span_ms
    rows = tx.execute(
        select(_telemetry)
        .where(c.level == level - 1, c.began_at < limit_ms)
        .order_by(c.began_at, c.device)
        .limit(ROWS_PER_STEP_MAX)
    ).fetchall()
    merged: dict[tuple[Any, ...], tuple[Row[Any], TelemetryWindow]] = {}
    done: list[int] = []
    for row in rows:
        window = _window(row)
        if window is None:
            # Of a newer program: nobody can merge it here, and it must not be in the way.
            tx.execute(update(_telemetry).where(c.id == row.id).values(level=level))
            continue
        key = (row.device, row.began_at // span_ms * span_ms, row.digest, window.workload)
        held = merged.get(key)
        merged[key] = (row, window if held is None else merge_windows(held[1], window))
        done.append(row.id)
    for (device, began_at, digest, _), (row, window) in merged.items():
        _put(tx, row, window, level=level, device=device, began_at=began_at, digest=digest)
    if done:
        tx.execute(delete(_telemetry).where(c.id.in_(done)))
    return Step(len(rows), more=len(rows) == ROWS_PER_STEP_MAX)


def drop_telemetry(tx: Connection, *, older_than: datetime) -> Step:
    """Forget days that began before."""
    locks.hold_until_commit(tx, locks.RETENTION_KEY)
    c = _telemetry.c
    query = select(c.id).where(c.level == LEVEL_DAY, c.began_at < to_ms(older_than))
    old = tx.execute(query.order_by(c.began_at).limit(ROWS_PER_STEP_MAX)).scalars().all()
    if old:
        tx.execute(delete(_telemetry).where(c.id.in_(old)))
    return Step(len(old), more=len(old) == ROWS_PER_STEP_MAX)


def drop_fleet_sums(tx: Connection, *, older_than: datetime) -> Step:
    """Forget sums of releases that nothing was told of since."""
    locks.hold_until_commit(tx, locks.RETENTION_KEY)
    rows = fleet_sums.forget(tx, older_than=older_than, limit=ROWS_PER_STEP_MAX)
    return Step(rows, more=rows == ROWS_PER_STEP_MAX)


def _put(
    tx: Connection,
    row: Row[Any],
    window: TelemetryWindow,
    *,
    level: int,
    device: str,
    began_at: int,
    digest: str,
) -> None:
    """Merge into the row that is there already, or make one."""
    c = _telemetry.c
    there = (c.level == level, c.began_at == began_at, c.device == device, c.digest == digest)
    for held in tx.execute(select(_telemetry).where(*there)).fetchall():
        known = _window(held)
        if known is not None and known.workload == window.workload:
            content = _content(merge_windows(known, window))
            tx.execute(update(_telemetry).where(c.id == held.id).values(content=content))
            return
    tx.execute(
        insert(_telemetry).values(
            device=device,
            epoch=MERGED_EPOCH,
            sequence=0,
            model=row.model,
            version=row.version,
            digest=digest,
            started_at=window.started_at,
            content=_content(window),
            received_at=row.received_at,
            began_at=began_at,
            level=level,
        )
    )


def _before(rows: Iterable[Any], limit_ms: int) -> list[Any]:
    """The first rows, up to one that is too new: they were stored in the order they came."""
    old = []
    for row in rows:
        if row.received_at >= limit_ms:
            break
        old.append(row)
    return old


def _window(row: Row[Any]) -> TelemetryWindow | None:
    try:
        return TelemetryWindow.model_validate(row.content)
    except ValidationError:
        return None


def _content(window: TelemetryWindow) -> Any:
    return plain(window.model_dump(mode="python"))
