"""What shows of a device from afar: presence, its report, its clock, and whether there are two."""

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, or_, select, update

from mailboat_controller.store import devices, tables
from mailboat_controller.store.devices import DeviceRow
from mailboat_controller.store.instants import to_ms
from mailboat_controller.store.many_rows import ManyRows
from mailboat_controller.store.plain_json import storable_json
from mailboat_schemas.reports import ReportedState

# Of two measures of a clock the one that was less on its way is the better, for so long; then the
# clock may have been set.
CLOCK_MEASURE_KEPT = timedelta(hours=1)
DEVICES_AT_ONCE = 500
CLOCK_OFFSET_MS_MAX = 1 << 53  # a device's clock may say anything
# A report that says it is from so far ahead of our clock does not outrank one that does not.
FUTURE_MAX = timedelta(days=1)

_devices = tables.devices
_SEEN = ManyRows(
    update(_devices)
    .where(_devices.c.device == bindparam("of_device"))
    .where(
        or_(_devices.c.last_seen_at.is_(None), _devices.c.last_seen_at < bindparam("before")),
    )
    .values(last_seen_at=bindparam("seen_at")),
    ("of_device", "before", "seen_at"),
)


def mark_seen(tx: Connection, device: str, at: datetime) -> None:
    mark_seen_many(tx, {device: at})


def mark_seen_many(tx: Connection, seen: Mapping[str, datetime]) -> None:
    """When devices were last heard of, by the controller's clock; never moves backwards."""
    _SEEN.run(tx, [(device, to_ms(at), to_ms(at)) for device, at in seen.items()])


def set_presence(
    tx: Connection,
    device: str,
    *,
    session: int,
    online: bool,
    at: datetime,
    held: DeviceRow | None = None,
) -> bool:
    """Take a birth or a last will; one of an older session changes nothing and gives False.

    Args:
        held: the device's row, where the caller has it locked; here and below.
    """
    c = _devices.c
    held = held or devices.by_name(tx, device)
    if held is None or held.session > session:
        return False
    # A broker that tells again what it retains tells no news.
    if (held.online, held.session) != (online, session):
        tx.execute(
            update(_devices)
            .where(c.device == device)
            .values(online=online, session=session, presence_at=to_ms(at))
        )
    return True


def document(report: ReportedState) -> dict[str, Any]:
    """A report as it is kept: statistics look into all of them at once, so none may break that."""
    return storable_json(report.model_dump(mode="json"))  # type: ignore[no-any-return]


def set_report(
    tx: Connection, report: ReportedState, *, at: datetime, held: DeviceRow | None = None
) -> bool:
    """Keep a verified report unless a newer one, by session and then by time, is held."""
    known = held or devices.by_name(tx, report.device)
    if known is None or not _outranks(report, known.report, at):
        return False
    content = document(report)
    tx.execute(
        update(_devices)
        .where(_devices.c.device == report.device)
        .values(
            report=content,
            # Those it decides with: its configuration may have changed since it was enrolled.
            labels=content["facts"]["labels"],
            manifest_counter=max(known.manifest_counter, report.manifest_counter),
        )
    )
    return True


def measure_clock(
    tx: Connection, row: DeviceRow, report: ReportedState, *, at: datetime
) -> int | None:
    """Keep how far the device's clock is from ours, in milliseconds, from a report that came live;
    returns it, or None when what is held is better.

    On its way a report grows older, never younger: of two measures the larger is nearer the truth.
    A device that was started again, or an hour, may have another clock.
    """
    offset_ms = report.observed_at - to_ms(at)
    offset_ms = max(-CLOCK_OFFSET_MS_MAX, min(offset_ms, CLOCK_OFFSET_MS_MAX))
    held_ms, seen_at = row.clock_offset_ms, row.clock_seen_at
    same_session = row.report is not None and row.report["session"] == report.session
    if (
        held_ms is not None
        and seen_at is not None
        and same_session
        and offset_ms < held_ms
        and at - seen_at <= CLOCK_MEASURE_KEPT
    ):
        return None
    tx.execute(
        update(_devices)
        .where(_devices.c.device == row.device)
        .values(clock_offset_ms=offset_ms, clock_seen_at=to_ms(at))
    )
    return offset_ms


def set_doubled(tx: Connection, device: str, *, by: str, at: datetime) -> None:
    """Note that two devices seem to have this id, and what showed it."""
    tx.execute(
        update(_devices)
        .where(_devices.c.device == device)
        .values(doubled_at=to_ms(at), doubled_by=by[:64])
    )


def _outranks(report: ReportedState, held: Mapping[str, Any] | None, at: datetime) -> bool:
    if held is None or report.session != held["session"]:
        return held is None or report.session > int(held["session"])
    # Set right again, a clock that was at 2100 goes back by years.
    ahead_ms = to_ms(at + FUTURE_MAX)
    if held["observed_at"] > ahead_ms >= report.observed_at:
        return True
    return report.observed_at >= int(held["observed_at"])


def trust_versions_told(
    tx: Connection, above: Mapping[str, int], lead_max: int
) -> Iterator[tuple[str, str, int]]:
    """Device, role and version, of devices in force that say they hold a newer one than ``above``.

    What is more than ``lead_max`` beyond is a lie; it must not hide what honest devices say.
    """
    c = tables.devices.c
    after = 0
    while True:
        query = select(c.enrolment_number, c.device, c.report).where(
            c.enrolment_number > after, c.revoked.is_(False)
        )
        rows = tx.execute(query.order_by(c.enrolment_number).limit(DEVICES_AT_ONCE)).fetchall()
        for row in rows:
            told = (row.report or {}).get("trust_versions", {})
            for role in told.keys() & above.keys():
                version = told[role]
                if isinstance(version, int) and 0 < version - above[role] <= lead_max:
                    yield row.device, role, version
        if len(rows) < DEVICES_AT_ONCE:
            return
        after = rows[-1].enrolment_number


def in_force(tx: Connection, names: Collection[str]) -> frozenset[str]:
    """Those of these devices that are enrolled and not revoked; at most `DEVICES_AT_ONCE`."""
    c = tables.devices.c
    wanted = sorted(names)[:DEVICES_AT_ONCE]
    query = select(c.device).where(c.device.in_(wanted), c.revoked.is_(False))
    return frozenset(tx.execute(query).scalars())
