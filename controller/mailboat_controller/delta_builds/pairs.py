"""Two releases side by side: for each file how it comes from one to the other, by hand and shown.

What stands in the queue is found again by the key of each file, so it does not matter whether a
person ordered it or the fleet wanted it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mailboat_controller.delta_builds import row_state
from mailboat_controller.delta_builds.queue_plan import queued
from mailboat_controller.delta_builds.wanted import ClassFacts, Target, Wanted, of_release
from mailboat_controller.store import classes, deltas, deployed, releases
from mailboat_controller.store.deltas import DeltaRow, State
from mailboat_controller.store.releases import ReleaseRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.documents.release import File
from mailboat_schemas.errors import Conflict, NotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One file of the newer release on one class. ``ways`` are keys of the queue: with a base if
    there is one, and without."""

    hardware_class: str
    file: File
    note: str  # why there is nothing to build, or no base
    ways: tuple[Wanted, ...]

    @property
    def way(self) -> Wanted | None:
        """The one to build to know all: from the base, if there is one."""
        return next((each for each in self.ways if each.key.base), next(iter(self.ways), None))


def pairs(
    tx: Transaction, model: str, base_version: str, version: str, hardware_class: str | None = None
) -> list[Pair]:
    """By class and file.

    Raises:
        NotFound: one of the releases, or a variant of the newer one for this class.
        Conflict: they are one and the same.
    """
    if base_version == version:
        raise Conflict(
            f"{version} needs no delta from itself.", next_step="name two versions that differ."
        )
    old, new = _release(tx, model, base_version), _release(tx, model, version)
    documents = {row.digest: row.parsed() for row in (old, new)}
    running, live = deployed.count(tx), deployed.live_by_class(tx)
    found: list[Pair] = []
    for document in classes.every(tx):
        name = document.metadata.name
        variant = documents[new.digest].variant_for(name)
        if variant is None or hardware_class not in (None, name):
            continue
        here = [each for each in running if each.hardware_class == name]
        facts = ClassFacts(
            hardware_class=name,
            memory_budget_bytes=document.spec.memory_budget,
            devices=live.get(name, 0),
            deployed=here,
        )
        bases = {old.digest: sum(e.devices for e in here if e.digest == old.digest)}
        target = Target(hardware_class=name, release=new.digest)
        ways = tuple(of_release(target, facts, documents, bases, bytes_min=0))
        before = documents[old.digest].variant_for(name)
        held = frozenset() if before is None else frozenset(before.artifacts)
        found += [_pair(name, file, ways, held) for file in variant.files]
    if not found:
        raise NotFound(
            f"{model} {version} has nothing for class {hardware_class or '(any)'}.",
            next_step="`mailboat class list` shows the classes, `mailboat release show` whom the "
            "release is for.",
        )
    return found


def order(
    tx: Transaction, chosen: Sequence[Pair], *, actor: str, now: datetime
) -> list[dict[str, Any]]:
    """Queue what is not built yet, before everything else; answers as `explain`."""
    for way in _ways(chosen):
        held = deltas.find(tx, way.key) or queued(way, now)
        deltas.put(tx, row_state.ordered(held, actor, now))
    return explain(tx, chosen)


def drop(
    tx: Transaction, chosen: Sequence[Pair], *, actor: str, now: datetime
) -> list[dict[str, Any]]:
    """No device is told of the patches between these two any more, until a person orders them."""
    for way in _ways(chosen):
        if not way.key.base:
            continue  # of use to everybody who has neither release
        held = deltas.find(tx, way.key) or queued(way, now)
        deltas.put(tx, row_state.dropped(held, actor, now))
    return explain(tx, chosen)


def explain(tx: Transaction, chosen: Sequence[Pair]) -> list[dict[str, Any]]:
    """For each file what is known: every candidate, which wins and why."""
    return [_explained(tx, pair) for pair in chosen]


def told(row: DeltaRow) -> dict[str, Any]:
    """A row of the queue for people and programs. Sizes in bytes."""
    return {
        "target": row.key.target,
        "base": row.key.base,
        "memory_bytes_max": row.key.memory_bytes_max,
        "target_length": row.target_length,
        "base_length": row.base_length,
        "state": row.state.value,
        "attempts": row.attempts,
        "code": row.code,
        "error": row.error,
        "next_attempt_at": row.next_attempt_at if row.state is State.WAITING else None,
        "format": row.format,
        "patch": row.patch,
        "patch_length": row.patch_length,
        "memory_bytes": row.memory_bytes,
        "seconds": row.seconds,
        "offered": row.offered,
        "devices": row.devices,
        "purposes": list(row.purposes),
        "ordered_by": row.ordered_by,
        "queued_at": row.queued_at,
        "updated_at": row.updated_at,
    }


def _pair(name: str, file: File, ways: Sequence[Wanted], held: frozenset[str]) -> Pair:
    mine = tuple(way for way in ways if way.key.target == file.sha256)
    note = ""
    if file.artifact_digest in held:
        mine, note = (), "unchanged: nothing is fetched"
    elif file.sealed is not None:
        mine, note = (), "encrypted: it comes whole"
    elif not any(way.key.base for way in mine):
        note = "the older release has no file that takes its part"
    return Pair(hardware_class=name, file=file, note=note, ways=mine)


def _ways(chosen: Sequence[Pair]) -> Iterator[Wanted]:
    merged: dict[deltas.Key, Wanted] = {}
    for way in (pair.way for pair in chosen):
        if way is not None:
            held = merged.get(way.key)
            merged[way.key] = way if held is None else held.with_more(way.purposes)
    yield from merged.values()


def _explained(tx: Transaction, pair: Pair) -> dict[str, Any]:
    rows = {bool(way.key.base): deltas.find(tx, way.key) for way in pair.ways}
    based, whole = rows.get(True), rows.get(False)
    shown = based if based is not None and based.candidates else whole
    row = None if pair.way is None else rows[bool(pair.way.key.base)]
    return {
        "hardware_class": pair.hardware_class,
        "path": pair.file.path,
        "role": pair.file.role.value,
        "length": pair.file.artifact_length,
        "note": pair.note,
        "queued": row is not None or pair.way is None,
        "pending": row is not None and _pending(row),
        "delta": None if based is None else told(based),
        "full": None if whole is None else told(whole),
        "candidates": [] if shown is None else list(shown.candidates),
    }


def _pending(row: DeltaRow) -> bool:
    """What failed before waits for hours, and nobody with it."""
    return row.state is State.BUILDING or (row.state is State.WAITING and not row.error)


def _release(tx: Transaction, model: str, version: str) -> ReleaseRow:
    row = releases.by_version(tx, model, version)
    if row is None:
        raise NotFound(
            f"There is no release {model} {version}.",
            next_step="`mailboat release list` shows those there are.",
        )
    return row
