"""Logs that people asked devices for: the requests, and the lines that came."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.log_tables import log_lines, log_requests
from mailboat_controller.store.plain_json import plain
from mailboat_controller.store.upsert import upsert
from mailboat_schemas.device_orders import LogLine
from mailboat_schemas.errors import NotFound

REQUESTS_OPEN_MAX = 1000  # of all devices
REQUESTS_KEPT_PER_DEVICE = 5  # with their lines
KEPT_FOR = timedelta(days=30)
FORGOTTEN_AT_ONCE = 100
# Of one request. A device sends at most `LOG_BYTES_MAX`; what it follows comes on top.
LINES_MAX = 50_000
LINES_BYTES_MAX = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRequestRow:
    request: str
    device: str
    asked_by: str
    reason: str
    asked_at: datetime
    expires_at: datetime
    since: int  # milliseconds by the device's clock
    follow_seconds: int
    counter: int
    withdrawn: bool
    lines: int
    bytes: int
    withheld: int
    answered_at: datetime | None
    completed_at: datetime | None

    def state(self, now: datetime) -> str:
        """waiting, answering, complete or expired, in words for people."""
        if self.completed_at is not None:
            return "complete"
        if now >= self.expires_at:
            return "expired"
        return "waiting" if self.answered_at is None else "answering"


def put(tx: Connection, row: LogRequestRow) -> None:
    """Keep a new request; the oldest of the device go, with their lines."""
    content = {name: getattr(row, name) for name in LogRequestRow.__slots__}
    for name in ("asked_at", "expires_at", "answered_at", "completed_at"):
        content[name] = None if content[name] is None else to_ms(content[name])
    tx.execute(insert(log_requests).values(**content))
    kept = of_device(tx, row.device)
    _forget(tx, [each.request for each in kept[REQUESTS_KEPT_PER_DEVICE:]])


def get(tx: Connection, device: str, request: str) -> LogRequestRow:
    """
    Raises:
        NotFound: there is none, or it is another device's.
    """
    c = log_requests.c
    row = tx.execute(select(log_requests).where(c.request == request, c.device == device)).first()
    if row is None:
        raise NotFound(
            f"Device {device} was not asked for its log under {request}.",
            next_step="list what was asked: `mailboat device logs DEVICE --list`.",
        )
    return _read(row)


def find(tx: Connection, device: str, request: str) -> LogRequestRow | None:
    c = log_requests.c
    row = tx.execute(select(log_requests).where(c.request == request, c.device == device)).first()
    return None if row is None else _read(row)


def of_device(tx: Connection, device: str) -> tuple[LogRequestRow, ...]:
    """The newest first."""
    c = log_requests.c
    query = select(log_requests).where(c.device == device)
    return tuple(map(_read, tx.execute(query.order_by(c.counter.desc(), c.request))))


def open_orders(tx: Connection) -> tuple[LogRequestRow, ...]:
    """Those whose order still stands at the broker."""
    c = log_requests.c
    query = select(log_requests).where(c.withdrawn.is_(False)).order_by(c.counter)
    return tuple(map(_read, tx.execute(query)))


def count_open(tx: Connection) -> int:
    query = select(func.count()).select_from(log_requests)
    return tx.execute(query.where(log_requests.c.withdrawn.is_(False))).scalar_one()


def newest_counter(tx: Connection, device: str) -> int:
    query = select(func.max(log_requests.c.counter)).where(log_requests.c.device == device)
    return tx.execute(query).scalar() or 0


def withdraw(tx: Connection, device: str, counter: int, now: datetime) -> None:
    """All earlier orders of the device are over; whoever was not answered is so no more."""
    c = log_requests.c
    these = (c.device == device, c.counter <= counter, c.withdrawn.is_(False))
    early = update(log_requests).where(*these, c.completed_at.is_(None), c.expires_at > to_ms(now))
    tx.execute(early.values(expires_at=to_ms(now)))
    tx.execute(update(log_requests).where(*these).values(withdrawn=True, counter=counter))


def add_lines(
    tx: Connection,
    row: LogRequestRow,
    lines: Sequence[LogLine],
    *,
    last: bool,
    withheld: int,
    now: datetime,
) -> int:
    """Keep what is new, each number once; how many lines that were.

    Beyond the bounds nothing more is kept and the request counts as complete.
    """
    have = set(
        tx.execute(
            select(log_lines.c.number).where(
                log_lines.c.request == row.request,
                log_lines.c.number.in_([line.number for line in lines]),
            )
        ).scalars()
    )
    count, size, fresh = row.lines, row.bytes, []
    for line in {each.number: each for each in lines}.values():
        if line.number in have:
            continue
        message = plain(line.message)
        if count >= LINES_MAX or size + len(message.encode()) > LINES_BYTES_MAX:
            last = True
            break
        count, size = count + 1, size + len(message.encode())
        fresh.append({"request": row.request, **line.model_dump(), "message": message})
    if fresh:
        tx.execute(upsert(tx, log_lines).on_conflict_do_nothing(), fresh)
    tx.execute(
        update(log_requests)
        .where(log_requests.c.request == row.request)
        .values(
            lines=count,
            bytes=size,
            withheld=max(row.withheld, withheld),
            answered_at=to_ms(row.answered_at or now),
            completed_at=to_ms(now) if last else None,
        )
    )
    return len(fresh)


def lines_after(tx: Connection, request: str, number: int, limit: int) -> tuple[LogLine, ...]:
    c = log_lines.c
    rows = tx.execute(
        select(log_lines)
        .where(c.request == request, c.number > number)
        .order_by(c.number)
        .limit(limit)
    )
    return tuple(
        LogLine(**{name: row._mapping[name] for name in LogLine.model_fields}) for row in rows
    )


def has_old(tx: Connection, now: datetime) -> bool:
    return bool(_old(tx, now, 1))


def forget_old(tx: Connection, now: datetime) -> int:
    """Drop requests, and lines, that were asked for long ago; how many requests."""
    found = _old(tx, now, FORGOTTEN_AT_ONCE)
    _forget(tx, found)
    return len(found)


def _old(tx: Connection, now: datetime, limit: int) -> list[str]:
    c = log_requests.c
    old = select(c.request).where(c.asked_at < to_ms(now - KEPT_FOR), c.withdrawn.is_(True))
    return list(tx.execute(old.limit(limit)).scalars())


def _forget(tx: Connection, requests: Sequence[str]) -> None:
    if requests:
        tx.execute(delete(log_lines).where(log_lines.c.request.in_(requests)))
        tx.execute(delete(log_requests).where(log_requests.c.request.in_(requests)))


def _read(row: Row[tuple[object, ...]]) -> LogRequestRow:
    content = dict(row._mapping)
    for name in ("asked_at", "expires_at", "answered_at", "completed_at"):
        content[name] = None if content[name] is None else from_ms(content[name])
    return LogRequestRow(**content)
