"""Which devices showed that a release comes back from a restart, or that they could leave it again
under load: sets, so that order and repetition of what devices tell do not matter."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, select

from mailboat_controller.store import releases
from mailboat_controller.store.exit_tables import exit_evidence
from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.upsert import upsert
from mailboat_schemas.drills import ANSWERED
from mailboat_schemas.events import Event, EventKind

_c = exit_evidence.c


class Shown(StrEnum):
    RESTARTED = "restarted"  # committed, started anew, and it serves again
    DRILLED = "drilled"  # the release before could take over while requests were answered


def fold_all(tx: Connection, told: Sequence[tuple[str, Event]], now: datetime) -> bool:
    """Take events of many devices, each with its device's name; says whether any counts."""
    rows: dict[tuple[str, str, str], int] = {}
    for device, event in told:
        match event.kind:
            case EventKind.RESTARTED if event.digest is not None:
                rows[event.digest, device, Shown.RESTARTED.value] = to_ms(now)
            case EventKind.DRILL_PASSED if under_load(event):
                digest = _served(tx, event)
                if digest is not None:
                    rows[digest, device, Shown.DRILLED.value] = to_ms(now)
            case _:
                pass
    # In one order, so that no two who write the same rows wait for each other.
    for digest, device, shown in sorted(rows):
        at = rows[digest, device, shown]
        row = upsert(tx, exit_evidence).values(digest=digest, device=device, shown=shown, at=at)
        tx.execute(
            row.on_conflict_do_update(
                index_elements=[_c.digest, _c.device, _c.shown], set_={"at": row.excluded.at}
            )
        )
    return bool(rows)


def under_load(event: Event) -> bool:
    """Whether what serves answered somebody while the drill went on."""
    answered = event.evidence.get(ANSWERED)
    return isinstance(answered, int) and not isinstance(answered, bool) and answered > 0


def of_release(tx: Connection, digest: str, since: datetime) -> Mapping[Shown, frozenset[str]]:
    """Devices that have shown it: drilled since then, restarted at any time.

    A device tells of one restart for an install. Whoever has the release from an earlier rollout of
    it tells no more, and has shown it.
    """
    counts = (_c.at >= to_ms(since)) | (_c.shown == Shown.RESTARTED.value)
    query = select(_c.device, _c.shown).where(_c.digest == digest, counts)
    found: dict[Shown, set[str]] = {shown: set() for shown in Shown}
    for device, shown in tx.execute(query):
        found[Shown(shown)].add(device)
    return {shown: frozenset(names) for shown, names in found.items()}


def drilled(
    tx: Connection, digest: str, since: datetime, limit: int
) -> tuple[tuple[str, datetime], ...]:
    """Devices that passed a drill under load while they served a release, and when that came."""
    mine = (_c.digest == digest, _c.shown == Shown.DRILLED.value, _c.at >= to_ms(since))
    query = select(_c.device, _c.at).where(*mine).order_by(_c.at, _c.device).limit(limit)
    return tuple((row.device, from_ms(row.at)) for row in tx.execute(query))


def _served(tx: Connection, event: Event) -> str | None:
    """The release that a rollback would have left: a drill names the one it would go to."""
    if event.model is None or event.serving_version is None:
        return None
    row = releases.by_version(tx, event.model, event.serving_version)
    return None if row is None else row.digest
