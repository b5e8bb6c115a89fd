"""What devices tell, summed up as it is stored: by release, class, site and workload.

The sums only grow (but for those of values that may be below zero), outlive the process, and are
the same whoever took the messages in. They are what Prometheus sees, so a window counts when it
came, not when it was.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, delete, func, select, tuple_

from mailboat_controller.store import tables
from mailboat_controller.store.fleet_tables import fleet_sums
from mailboat_controller.store.instants import to_ms
from mailboat_controller.store.upsert import upsert

# Groups (release, class, site, workload) that are read; those told of last. A group has some forty
# sums, so a scrape is bounded whatever devices and sites there are.
GROUPS_READ_MAX = 1000
_c = fleet_sums.c
_KEY = (_c.digest, _c.hardware_class, _c.site, _c.workload, _c.figure, _c.part)


class SumKey(NamedTuple):
    digest: str
    hardware_class: str
    site: str
    workload: str
    figure: str
    part: str = ""


class SumRow(NamedTuple):
    """``model`` and ``version`` are "" for what is of devices, whatever they run."""

    model: str
    version: str
    hardware_class: str
    site: str
    workload: str
    figure: str
    part: str
    amount: float


def add(tx: Connection, sums: Mapping[SumKey, float], at: datetime) -> None:
    """Several may add to the same at once: rows are taken in one order, each by one statement."""
    if not sums:
        return
    row = upsert(tx, fleet_sums)
    updated = {"amount": _c.amount + row.excluded.amount, "updated_at": row.excluded.updated_at}
    tx.execute(
        row.on_conflict_do_update(index_elements=[column.name for column in _KEY], set_=updated),
        [
            {**key._asdict(), "amount": amount, "updated_at": to_ms(at)}
            for key, amount in sorted(sums.items())
        ],
    )


def parts(
    tx: Connection, digests: Collection[str], figures: Collection[str]
) -> dict[tuple[str, str, str], set[str]]:
    """Parts that there are of these figures, by digest, class and figure."""
    found: dict[tuple[str, str, str], set[str]] = {}
    names = select(_c.digest, _c.hardware_class, _c.figure, _c.part).distinct()
    for row in tx.execute(names.where(_c.digest.in_(digests), _c.figure.in_(figures))):
        found.setdefault((row.digest, row.hardware_class, row.figure), set()).add(row.part)
    return found


def read(tx: Connection) -> tuple[list[SumRow], int]:
    """The sums of the groups told of last, and how many groups are left out."""
    group = _KEY[:4]
    newest = (
        select(*group, func.max(_c.updated_at).label("newest"))
        .group_by(*group)
        .order_by(func.max(_c.updated_at).desc(), *group)
    )
    total = tx.execute(select(func.count()).select_from(newest.subquery())).scalar_one()
    kept = newest.limit(GROUPS_READ_MAX).subquery()
    r = tables.releases.c
    rows = tx.execute(
        select(
            func.coalesce(r.model, "").label("model"),
            func.coalesce(r.version, "").label("version"),
            *(column for column in _KEY if column is not _c.digest),
            _c.amount,
        )
        .join(kept, tuple_(*group) == tuple_(*(kept.c[column.name] for column in group)))
        .outerjoin(tables.releases, r.digest == _c.digest)
    )
    return [SumRow._make(row) for row in rows], max(0, total - GROUPS_READ_MAX)


def forget(tx: Connection, *, older_than: datetime, limit: int) -> int:
    """Sums that nothing was added to since, so many at once; says how many."""
    old = _c.updated_at < to_ms(older_than)
    some = select(*_KEY).where(old).order_by(*_KEY).limit(limit)
    # Asked once more of the row: one that was added to meanwhile stays.
    return tx.execute(delete(fleet_sums).where(tuple_(*_KEY).in_(some), old)).rowcount
