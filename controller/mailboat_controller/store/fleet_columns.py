"""The fleet as a picture of itself holds it: few columns of every device, and who changed since."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from sqlalchemy import Connection, Text, cast, func, select

from mailboat_controller.rollout.members import Outcome
from mailboat_controller.rollout.state import Phase
from mailboat_controller.store import tables
from mailboat_controller.store.instants import from_ms
from mailboat_controller.store.override_tables import operator_labels

NUMBERS_AT_ONCE = 500  # in one query; databases bound the number of parameters
FAILURES_MAX = 100_000
EVENTS_READ_MAX = 50_000  # at one look; the rest at the next
# On PostgreSQL several write at once, and who began first may end last.
EVENTS_LATE_MAX = 500
AUDIT_READ_MAX = 10_000  # between two looks; older ones are read again in their turn
# Of so many rollouts, the newest, failures are shown in the grid; older ones have their pages.
ROLLOUTS_MAX = 20
# Failures of these call for somebody; what failed under an aborted one has been dealt with.
_CALLING = (Phase.RUNNING, Phase.PAUSED, Phase.HALTED, Phase.COMPLETED)

_devices, _outcomes, _rollouts = tables.devices, tables.outcomes, tables.rollouts
_c = _devices.c


# What changes when a device is heard of, as the database has it: online, presence_at,
# last_seen_at, revoked. A plain tuple: there are as many as devices, at every look.
Sign = tuple[int | None, int | None, int | None, int]


class FleetRow(NamedTuple):
    """A device, without its keys and certificates."""

    enrolment_number: int
    device: str
    hardware_class: str
    site: str
    labels: Mapping[str, str]
    revoked: bool
    online: bool | None
    presence_at: datetime | None
    last_seen_at: datetime | None
    report: Mapping[str, Any] | None  # of it, what `_reduced` keeps


def signs(tx: Connection, *, limit: int) -> dict[int, Sign]:
    """By enrolment number, in its order. One pass over the registry."""
    columns = (_c.online, _c.presence_at, _c.last_seen_at, _c.revoked)
    query = select(_c.enrolment_number, *columns).order_by(_c.enrolment_number).limit(limit)
    return {number: (*sign,) for number, *sign in tx.execute(query).fetchall()}


def signs_of_news(
    tx: Connection, *, since_ms: int, above: int, limit: int
) -> dict[int, Sign] | None:
    """Of devices that came or went since then, and of those that enrolled after a number. None:
    there are more than ``limit``. Each from an index."""
    columns = (_c.enrolment_number, _c.online, _c.presence_at, _c.last_seen_at, _c.revoked)
    found: dict[int, Sign] = {}
    for those in (_c.presence_at >= since_ms, _c.enrolment_number > above):
        rows = tx.execute(select(*columns).where(those).limit(limit + 1)).fetchall()
        if len(rows) > limit:
            return None
        found |= {number: (*sign,) for number, *sign in rows}
    return found


def told_events(tx: Connection, *, after: int) -> tuple[set[str], int]:
    """Devices that told a state event above that number, and the number read up to. With each of
    them what a device reports of its models may be another."""
    e = tables.events.c
    upto = min(newest_event(tx), after + EVENTS_READ_MAX)
    first = after if tx.dialect.name == "sqlite" else after - EVENTS_LATE_MAX
    query = select(e.device).where(e.id > first, e.id <= upto).distinct()
    return set(tx.execute(query).scalars()), upto


def told_audit(tx: Connection, *, after: int) -> set[str]:
    """What the audit entries above that number are about; a device that was revoked among them."""
    a = tables.audit.c
    newest = select(a.subject).where(a.sequence > after).order_by(a.sequence.desc())
    return set(tx.execute(newest.limit(AUDIT_READ_MAX)).scalars())


def newest_event(tx: Connection) -> int:
    return tx.execute(select(func.max(tables.events.c.id))).scalar() or 0


def count(tx: Connection) -> int:
    return tx.execute(select(func.count()).select_from(_devices)).scalar_one()


def rows(tx: Connection, *, after: int, limit: int) -> list[FleetRow]:
    """Devices by enrolment number, those above ``after``."""
    query = _asked().where(_c.enrolment_number > after).order_by(_c.enrolment_number).limit(limit)
    return [_read(row) for row in tx.execute(query)]


def rows_of(tx: Connection, numbers: Sequence[int]) -> list[FleetRow]:
    found: list[FleetRow] = []
    for first in range(0, len(numbers), NUMBERS_AT_ONCE):
        some = _c.enrolment_number.in_(numbers[first : first + NUMBERS_AT_ONCE])
        found += [_read(row) for row in tx.execute(_asked().where(some))]
    return found


def failed(tx: Connection) -> dict[str, str]:
    """Devices whose newest verdict on a release that is being rolled out, or was halted, is bad;
    with the reason. Those of the newest rollouts, `FAILURES_MAX` at most."""
    r, o = _rollouts.c, _outcomes.c
    newest = (
        select(r.digest, func.max(r.retry_epoch).label("retry_epoch"))
        .where(r.phase.in_([phase.value for phase in _CALLING]))
        .group_by(r.digest)
        .order_by(func.max(r.updated_at).desc())
        .limit(ROLLOUTS_MAX)
        .subquery()
    )
    query = (
        select(o.device, o.code, o.because)
        .join(newest, newest.c.digest == o.digest)
        .where(o.outcome == Outcome.FAILED.value, o.retry_epoch >= newest.c.retry_epoch)
        .limit(FAILURES_MAX)
    )
    return {row.device: row.because or row.code for row in tx.execute(query)}


def notes(tx: Connection) -> dict[str, dict[str, str]]:
    """Labels that operators noted, by device; of all of them."""
    found: dict[str, dict[str, str]] = {}
    for row in tx.execute(select(operator_labels)):
        found.setdefault(row.device, {})[row.name] = row.value
    return found


@lru_cache(maxsize=1024)
def _labels(text: str) -> Mapping[str, str]:
    return MappingProxyType(json.loads(text))


def _reduced(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """What lists and selectors read of a report; thousands of devices share one."""
    models = tuple((m["model"], m["serving_version"], m["phase"]) for m in report["models"])
    return _shared(models, tuple(sorted(report["facts"]["labels"].items())))


@lru_cache(maxsize=4096)
def _shared(
    models: tuple[tuple[str, str | None, str], ...], labels: tuple[tuple[str, str], ...]
) -> Mapping[str, Any]:
    names = ("model", "serving_version", "phase")
    return {
        "models": [dict(zip(names, each, strict=True)) for each in models],
        "facts": {"labels": dict(labels)},
    }


def _asked() -> Any:
    # The report as text: the driver would parse it too, and slower.
    return select(
        _c.enrolment_number,
        _c.device,
        _c.hardware_class,
        _c.site,
        cast(_c.labels, Text).label("labels"),
        _c.revoked,
        _c.online,
        _c.presence_at,
        _c.last_seen_at,
        cast(_c.report, Text).label("report"),
    )


def _read(row: Any) -> FleetRow:
    # JSON has a null of its own beside the database's.
    report = json.loads(row.report or "null")
    return FleetRow(
        enrolment_number=row.enrolment_number,
        device=row.device,
        hardware_class=row.hardware_class,
        site=row.site,
        labels=_labels(row.labels),
        revoked=row.revoked,
        online=row.online,
        presence_at=None if row.presence_at is None else from_ms(row.presence_at),
        last_seen_at=None if row.last_seen_at is None else from_ms(row.last_seen_at),
        report=None if report is None else _reduced(report),
    )
