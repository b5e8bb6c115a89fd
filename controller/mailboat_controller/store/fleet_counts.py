"""How the fleet stands, counted in SQL: a row for each class, release or site, not for a device."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, case, func, not_, or_, select

from mailboat_controller.rollout.members import Outcome
from mailboat_controller.store import devices, rollouts, tables
from mailboat_controller.store.class_counts import silence_is_expected
from mailboat_controller.store.delta_tables import deliveries
from mailboat_controller.store.instants import to_ms
from mailboat_schemas.documents.release import ReleaseDocument

# Of so many releases outcomes are counted: one reads a row for each device that had it.
RELEASES_COUNTED_MAX = 20
COUNTED_FOR = timedelta(days=30)  # after a rollout last changed, if its release is not current
SILENT = timedelta(days=1)
UNSEEN = (timedelta(hours=1), SILENT, timedelta(days=7))
DOUBLED_LATELY = timedelta(days=7)
DISK_LOW_BYTES = 512 << 20
CLOCK_OFFSET_MS_MAX = 60_000
# What a device last said of its disk and clock, before it fell silent, calls nobody for ever.
SAID_FOR = timedelta(days=7)
# A site is several series. Beyond so many, the smallest are added up under a name that none has.
SITES_COUNTED_MAX = 1000
OTHER_SITES = "(others)"
STATES = ("online", "offline", "unknown")
NO_SITE = "-"  # of devices that connect to the centre directly

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
    awaited: int  # not of classes whose silence is expected
    # Of the awaited, for at least as long as `UNSEEN`.
    unseen: tuple[int, ...]


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
    """Devices of no site first, then the sites with most devices, then the `OTHER_SITES`."""
    c = _devices.c
    live = c.revoked.is_(False)
    missed = and_(live, c.hardware_class.not_in(silence_is_expected(tx)))
    spoke = and_(live, c.last_seen_at >= to_ms(now - SAID_FOR))
    free_bytes = c.report["facts"]["disk_free_bytes"].as_float()
    conditions = [
        and_(live, _is("online")),
        and_(live, _is("offline")),
        and_(live, _is("unknown")),
        c.revoked.is_(True),
        and_(spoke, c.report.is_not(None), free_bytes < DISK_LOW_BYTES),
        and_(spoke, func.abs(func.coalesce(c.clock_offset_ms, 0)) > CLOCK_OFFSET_MS_MAX),
        missed,
        *(
            and_(missed, func.coalesce(c.last_seen_at, c.enrolled_at) < to_ms(now - span))
            for span in UNSEEN
        ),
    ]
    rows = tx.execute(
        select(c.site, *(_counted(condition) for condition in conditions))
        .group_by(c.site)
        .order_by(case((c.site == NO_SITE, 0), else_=1), func.count().desc(), c.site)
    )
    counts = [SiteCount._make([*row[:8], tuple(row[8:])]) for row in rows]
    if len(counts) <= SITES_COUNTED_MAX:
        return tuple(counts)
    kept = counts[: SITES_COUNTED_MAX - 1]
    return (*kept, _added_up(counts[len(kept) :]))


def _added_up(counts: Iterable[SiteCount]) -> SiteCount:
    columns = zip(*((*each[1:8], *each.unseen) for each in counts), strict=True)
    sums = [sum(column) for column in columns]
    return SiteCount._make([OTHER_SITES, *sums[:7], tuple(sums[7:])])


def manifest_current(tx: Connection) -> dict[tuple[str, str], int]:
    """Devices whose newest report answers the newest manifest of their class, by class and
    whether they are online, offline or unknown."""
    c, m = _devices.c, tables.manifests.c
    answers = and_(c.revoked.is_(False), c.manifest_counter >= m.counter)
    counted = (_counted(and_(answers, _is(state))) for state in STATES)
    rows = tx.execute(
        select(c.hardware_class, *counted)
        .join(tables.manifests, m.hardware_class == c.hardware_class)
        .group_by(c.hardware_class)
    )
    return {
        (row[0], state): int(number)
        for row in rows
        for state, number in zip(STATES, row[1:], strict=True)
    }


def outcomes(tx: Connection, now: datetime) -> tuple[OutcomeCount, ...]:
    """By class, release and outcome, of the newest retry of each device; of releases that are
    current somewhere or were rolled out lately.

    What no device has yet is there with 0, so that a share of all is known and a first failure is
    seen to have been none before.
    """
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
    found = dict.fromkeys(_expected_outcomes(tx, digests), 0)
    found |= {tuple(row[:4]): row[4] for row in rows}
    return tuple(OutcomeCount(*key, number) for key, number in found.items())


def _expected_outcomes(
    tx: Connection, digests: Collection[str]
) -> Iterator[tuple[str, str, str, str]]:
    """Of the classes that a release has a variant for."""
    r = _releases.c
    columns = (r.model, r.version, r.document)
    for row in tx.execute(select(*columns).where(r.digest.in_(digests)).order_by(r.digest)):
        for hardware_class in _classes(row.document):
            for outcome in Outcome:
                yield hardware_class, row.model, row.version, outcome.value


@lru_cache(maxsize=RELEASES_COUNTED_MAX)
def _classes(document: bytes) -> tuple[str, ...]:
    variants = ReleaseDocument.parse(document).variants
    return tuple(sorted({name for each in variants for name in each.hardware_classes}))


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


def _is(state: str) -> Any:
    """The same as `devices.count_by_class` counts by, so that sites and classes add up alike."""
    online, known = _devices.c.online, devices.way_is_open()
    match state:
        case "online":
            return and_(known, online.is_(True))
        case "offline":
            return and_(known, online.is_(False))
        case _:
            return or_(not_(known), online.is_(None))


def _counted(condition: Any) -> Any:
    return func.sum(case((condition, 1), else_=0))
