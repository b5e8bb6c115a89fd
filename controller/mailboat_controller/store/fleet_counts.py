"""How the fleet stands, counted in SQL: a row for each class, release or site, not for a device."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, case, func, or_, select

from mailboat_controller.store import rollouts, tables
from mailboat_controller.store.delta_tables import deliveries
from mailboat_controller.store.instants import to_ms

# Of so many releases outcomes are counted: one reads a row for each device that had it.
RELEASES_COUNTED_MAX = 20
COUNTED_FOR = timedelta(days=30)  # after a rollout last changed, if its release is not current
UNSEEN = (timedelta(hours=1), timedelta(days=1), timedelta(days=7))
DISK_LOW_BYTES = 512 << 20
CLOCK_OFFSET_MS_MAX = 60_000

_devices, _outcomes, _releases = tables.devices, tables.outcomes, tables.releases
_audit, _rollouts = tables.audit, tables.rollouts


class SiteCount(NamedTuple):
    """Devices of one site; all but ``revoked`` are of those that are not."""

    site: str
    online: int
    offline: int
    unknown: int
    revoked: int
    disk_low: int
    clock_wrong: int
    unseen: tuple[int, ...]  # for at least as long as `UNSEEN`


class OutcomeCount(NamedTuple):
    hardware_class: str
    model: str
    version: str
    outcome: str
    devices: int


class DeliverySum(NamedTuple):
    hardware_class: str
    model: str
    version: str
    outcome: str
    deliveries: int
    fetched_bytes: int


class AuditCount(NamedTuple):
    action: str
    actor: str  # its kind alone, such as operator
    entries: int


class CanaryRow(NamedTuple):
    device: str
    models: tuple[tuple[str, str, str], ...]  # model, version that serves or "", phase
    seen_at_ms: int | None


def by_site(tx: Connection, now: datetime) -> tuple[SiteCount, ...]:
    c = _devices.c
    live = c.revoked.is_(False)
    free_bytes = c.report["facts"]["disk_free_bytes"].as_float()
    conditions = [
        and_(live, c.online.is_(True)),
        and_(live, c.online.is_(False)),
        and_(live, c.online.is_(None)),
        c.revoked.is_(True),
        and_(live, c.report.is_not(None), free_bytes < DISK_LOW_BYTES),
        and_(live, func.abs(func.coalesce(c.clock_offset_ms, 0)) > CLOCK_OFFSET_MS_MAX),
        *(
            and_(live, or_(c.last_seen_at.is_(None), c.last_seen_at < to_ms(now - span)))
            for span in UNSEEN
        ),
    ]
    rows = tx.execute(
        select(c.site, *(_counted(condition) for condition in conditions))
        .group_by(c.site)
        .order_by(c.site)
    )
    return tuple(SiteCount._make([*row[:7], tuple(row[7:])]) for row in rows)


def manifest_current(tx: Connection) -> dict[str, int]:
    """Devices whose newest report answers the newest manifest of their class."""
    c, m = _devices.c, tables.manifests.c
    newest = _counted(and_(c.revoked.is_(False), c.manifest_counter >= m.counter))
    rows = tx.execute(
        select(c.hardware_class, newest)
        .join(tables.manifests, m.hardware_class == c.hardware_class)
        .group_by(c.hardware_class)
    )
    return {hardware_class: int(number) for hardware_class, number in rows}


def outcomes(tx: Connection, now: datetime) -> tuple[OutcomeCount, ...]:
    """By class, release and outcome, of the newest retry of each device; of releases that are
    current somewhere or were rolled out lately."""
    digests = _counted_releases(tx, now)
    o, d, r = _outcomes.c, _devices.c, _releases.c
    newest = (
        select(o.digest, o.device, func.max(o.retry_epoch).label("retry_epoch"))
        .where(o.digest.in_(digests))
        .group_by(o.digest, o.device)
        .subquery()
    )
    rows = tx.execute(
        select(d.hardware_class, r.model, r.version, o.outcome, func.count())
        .select_from(newest)
        .join(
            _outcomes,
            and_(
                o.digest == newest.c.digest,
                o.device == newest.c.device,
                o.retry_epoch == newest.c.retry_epoch,
            ),
        )
        .join(_devices, d.device == o.device)
        .join(_releases, r.digest == o.digest)
        .group_by(d.hardware_class, r.model, r.version, o.outcome)
    )
    return tuple(OutcomeCount._make(row) for row in rows)


def came(tx: Connection, now: datetime) -> tuple[DeliverySum, ...]:
    """How the same releases came to devices."""
    c, r = deliveries.c, _releases.c
    rows = tx.execute(
        select(c.hardware_class, r.model, r.version, c.outcome, c.count.label("n"), c.fetched_bytes)
        .join(_releases, r.digest == c.digest)
        .where(c.digest.in_(_counted_releases(tx, now)))
    )
    return tuple(DeliverySum._make(row) for row in rows)


def audited(tx: Connection, *, after: int) -> tuple[tuple[AuditCount, ...], int]:
    """Entries with a sequence above ``after``, and the newest sequence."""
    c = _audit.c
    newest = tx.execute(select(func.max(c.sequence))).scalar() or 0
    colon = func.instr(c.actor, ":")
    if tx.dialect.name != "sqlite":
        colon = func.strpos(c.actor, ":")
    kind = case((colon > 0, func.substr(c.actor, 1, colon - 1)), else_=c.actor).label("kind")
    inner = select(c.action, kind).where(c.sequence > after, c.sequence <= newest).subquery().c
    rows = tx.execute(
        select(inner.action, inner.kind, func.count()).group_by(inner.action, inner.kind)
    )
    return tuple(AuditCount._make(row) for row in rows), newest


def canaries(tx: Connection, names: Sequence[str]) -> tuple[CanaryRow, ...]:
    c = _devices.c
    query = select(c.device, c.report, c.last_seen_at).where(c.device.in_(names))
    found = []
    for row in tx.execute(query.order_by(c.device)):
        models = () if row.report is None else row.report["models"]
        told = tuple((m["model"], m["serving_version"] or "", m["phase"]) for m in models)
        found.append(CanaryRow(row.device, told, row.last_seen_at))
    return tuple(found)


def _counted_releases(tx: Connection, now: datetime) -> Collection[str]:
    current = {row.current.digest for row in rollouts.assignments(tx) if row.current is not None}
    c = _rollouts.c
    lately = tx.execute(
        select(c.digest)
        .where(c.updated_at >= to_ms(now - COUNTED_FOR))
        .order_by(c.updated_at.desc(), c.digest)
        .limit(RELEASES_COUNTED_MAX)
    ).scalars()
    return list(dict.fromkeys([*lately, *sorted(current)]))[:RELEASES_COUNTED_MAX]


def _counted(condition: Any) -> Any:
    return func.sum(case((condition, 1), else_=0))
