"""Evidence of rollouts that nobody needs any more, dropped a bounded step at a time.

A release is over when none of its rollouts is planned, running or paused, it is current in no class
(it may be rolled out to another one), and all of that has been so for long. Until then a rollout
counts by who fetched it and what devices showed. What of outcomes says how a release went stays for
ever; see docs/retention.md.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, Table, delete, select, tuple_

from mailboat_controller.rollout.state import Phase
from mailboat_controller.store import locks, tables
from mailboat_controller.store.drill_tables import drill_results
from mailboat_controller.store.exit_tables import exit_evidence
from mailboat_controller.store.instants import to_ms
from mailboat_controller.store.redemption_tables import redemptions
from mailboat_controller.store.retention import ROWS_PER_STEP_MAX, Step

# Phases in which a rollout decides by what devices fetched and showed. Of a completed one only
# bad news counts, which is in the outcomes.
OPEN = frozenset({Phase.PLANNED, Phase.RUNNING, Phase.PAUSED})

# A database takes so many values in one statement; rollouts are never forgotten.
RELEASES_PER_STATEMENT_MAX = 1000


def drop_redemptions(tx: Connection, *, older_than: datetime) -> Step:
    """Forget who fetched a release that is over."""
    return _drop_of_releases(tx, redemptions, redemptions.c.redeemed_at, older_than)


def drop_exit_evidence(tx: Connection, *, older_than: datetime) -> Step:
    """Forget who showed a restart or a drill of a release that is over."""
    return _drop_of_releases(tx, exit_evidence, exit_evidence.c.at, older_than)


def drop_drill_results(tx: Connection, *, older_than: datetime) -> Step:
    """Forget the newest drill of devices that have told of none since."""
    c = drill_results.c
    old = c.told_at < to_ms(older_than)
    return _drop(tx, drill_results, old, [c.told_at, c.device, c.model])


def _drop_of_releases(tx: Connection, table: Table, at: Column[Any], older_than: datetime) -> Step:
    # By release, which is where the key begins: the rows that stay are not read each time.
    over = _over(tx, older_than)
    for first in range(0, len(over), RELEASES_PER_STATEMENT_MAX):
        following = first + RELEASES_PER_STATEMENT_MAX
        old = table.c.digest.in_(over[first:following]) & (at < to_ms(older_than))
        step = _drop(tx, table, old, list(table.primary_key.columns))
        if step.rows:
            return Step(step.rows, more=step.more or following < len(over))
    return Step(0, more=False)


def _over(tx: Connection, older_than: datetime) -> list[str]:
    """Releases that are over, of all that there ever were."""
    r, a = tables.rollouts.c, tables.assignments.c
    phases = [phase.value for phase in OPEN]
    needed = select(r.digest).where(r.phase.in_(phases) | (r.updated_at >= to_ms(older_than)))
    current = select(a.digest).where(a.digest.is_not(None))
    query = select(r.digest).where(r.digest.not_in(needed), r.digest.not_in(current)).distinct()
    return sorted(tx.execute(query).scalars())


def _drop(tx: Connection, table: Table, old: Any, order: list[Any]) -> Step:
    locks.hold_until_commit(tx, locks.RETENTION_KEY)
    key = list(table.primary_key.columns)
    some = select(*key).where(old).order_by(*order).limit(ROWS_PER_STEP_MAX)
    # Asked once more of the row: one that was told of meanwhile stays.
    rows = tx.execute(delete(table).where(tuple_(*key).in_(some), old)).rowcount
    return Step(rows, more=rows == ROWS_PER_STEP_MAX)
