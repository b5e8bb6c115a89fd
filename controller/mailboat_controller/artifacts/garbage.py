"""Collecting what nothing names any more: retired releases' files, uploads that nobody claimed.

An artifact is first noted as unnamed, and removed when it is still unnamed after the grace period.
It is removed inside a transaction that looks once more: a submission that names it comes either
before that, and is seen, or after it, and finds it missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from mailboat_controller.artifacts.artifact_store import ArtifactStore, Entry
from mailboat_controller.artifacts.references import referenced
from mailboat_controller.store import artifact_life, audit
from mailboat_controller.store.engine import Store

AT_ONCE = 16  # removed in one transaction, which keeps other writers out
JOB = "garbage"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """``due`` has been unnamed for the whole grace period, ``waiting`` has not, with the instant
    when it will have been; ``held`` counts everything that is here."""

    held: int
    held_bytes: int
    due: tuple[Entry, ...]
    waiting: Mapping[str, datetime]
    waiting_bytes: int
    missing: int  # of what something names


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    found: Garbage
    removed: int
    removed_bytes: int


def look(store: Store, artifacts: ArtifactStore, grace: timedelta, now: datetime) -> Garbage:
    """What is unnamed, and since when. Changes nothing."""
    entries = list(artifacts.entries())
    with store.read() as tx:
        used, since = referenced(tx), artifact_life.unnamed(tx)
    unnamed = [entry for entry in entries if entry.digest not in used]
    # An instant in the future is from before the clock was set back: it counts from now.
    ends = {entry.digest: min(since.get(entry.digest, now), now) + grace for entry in unnamed}
    here = {entry.digest: entry.length for entry in entries}
    return Garbage(
        held=len(entries),
        held_bytes=sum(entry.length for entry in entries),
        due=tuple(entry for entry in unnamed if ends[entry.digest] <= now),
        waiting={digest: end for digest, end in ends.items() if end > now},
        waiting_bytes=sum(entry.length for entry in unnamed if ends[entry.digest] > now),
        missing=sum(here.get(use.digest) != use.length for use in used.values()),
    )


def collect(
    store: Store, artifacts: ArtifactStore, grace: timedelta, now: datetime, *, actor: str
) -> Collected:
    """Note what is unnamed, and remove what has been for the whole grace period.

    Raises:
        Transient, OperatorNeeded: of the store; what was removed before that stays removed.
    """
    found = look(store, artifacts, grace, now)
    with store.transaction() as tx:
        noted = artifact_life.unnamed(tx)
        unnamed = {entry.digest for entry in found.due} | found.waiting.keys()
        artifact_life.forget_unnamed(tx, noted.keys() - unnamed)
        artifact_life.note_unnamed(tx, sorted(unnamed - noted.keys()), now)
    removed: list[Entry] = []
    for start in range(0, len(found.due), AT_ONCE):
        removed += _remove(store, artifacts, found.due[start : start + AT_ONCE], now, actor)
    _discard(store, artifacts, grace, now)
    removed_bytes = sum(entry.length for entry in removed)
    content = {
        "at": now.isoformat(),
        "artifacts": found.held - len(removed),
        "bytes": found.held_bytes - removed_bytes,
        "missing": found.missing,
        "removed": len(removed),
    }
    with store.transaction() as tx:
        artifact_life.put_job(tx, JOB, content)
    if removed:
        _log.info("artifacts removed", count=len(removed), bytes=removed_bytes)
    return Collected(found=found, removed=len(removed), removed_bytes=removed_bytes)


def _remove(
    store: Store, artifacts: ArtifactStore, due: Sequence[Entry], now: datetime, actor: str
) -> list[Entry]:
    with store.transaction() as tx:
        used = referenced(tx)
        # Whoever uploads it again, or is about to name it, has taken it off the list meanwhile.
        removable = [
            entry
            for entry in due
            if entry.digest not in used and artifact_life.is_unnamed(tx, entry.digest)
        ]
        for entry in removable:
            audit.append(
                tx,
                at=now,
                actor=actor,
                action="artifact.remove",
                subject=entry.digest,
                reason="nothing has named it for the grace period",
                details={"length": entry.length},
            )
        artifact_life.forget_unnamed(tx, [entry.digest for entry in removable])
        for entry in removable:  # last: what cannot be undone
            artifacts.delete(entry.digest)
    return removable


def _discard(store: Store, artifacts: ArtifactStore, grace: timedelta, now: datetime) -> None:
    """Damaged copies that nobody has looked at for the grace period."""
    with store.read() as tx:
        found_at = {row.digest: row.found_at for row in artifact_life.damaged(tx)}
        used = referenced(tx)
    for entry in artifacts.quarantined():
        known = found_at.get(entry.digest)
        if known is None or known + grace <= now:
            artifacts.discard(entry.digest)
    for digest, at in found_at.items():
        if digest not in used and at + grace <= now:
            with store.transaction() as tx:
                artifact_life.forget_damaged(tx, digest)
