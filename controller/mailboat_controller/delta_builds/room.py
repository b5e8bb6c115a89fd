"""The delta room: looks at what the fleet runs, queues what is worth building, and builds it.

Nothing waits for it. A release goes out at once, with whole files; when patches are ready, one
more message a class tells of them. Everything is in the queue's table, so whatever ends this
process, the next one goes on.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import structlog

from mailboat_controller.artifacts.care import note_stored
from mailboat_controller.delta_builds import queue_plan, row_state
from mailboat_controller.delta_builds.builder import Builder, BuildStopped, Built
from mailboat_controller.delta_builds.row_state import Trigger
from mailboat_controller.delta_builds.targets import targets_of
from mailboat_controller.delta_builds.wanted import (
    BASES_DEFAULT,
    ClassFacts,
    Wanted,
    wanted,
)
from mailboat_controller.releases.publication import ClassWish
from mailboat_controller.store import artifact_life, classes, deltas, deployed, releases
from mailboat_controller.store.deltas import DeltaRow, Key, State
from mailboat_controller.store.engine import Store
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.errors import DiskFull, MailboatError

Become = Callable[[DeltaRow, datetime], DeltaRow]
Telling = Callable[[DeltaRow, str, str, datetime], DeltaRow]
ACTOR = "controller"
_COLLECTED = ("E-ARTIFACT-MISSING", "its patch was collected before it was noted")
_DEFECT = ("E-INTERNAL", "the controller met a bug; its log says which")
_log = structlog.get_logger(__name__)


class DeltaRoom:
    """All calls are plain and may come from any thread; `build_next` blocks for long."""

    def __init__(
        self,
        store: Store,
        builder: Builder,
        *,
        now: Callable[[], datetime],
        bases_max: int = BASES_DEFAULT,
    ) -> None:
        self._store = store
        self._builder = builder
        self._now = now
        self._bases_max = bases_max
        self._building: dict[Key, threading.Event] = {}
        self._stopped = False

    def open(self) -> None:
        """Once, before anything is built: what was being built when a controller ended waits, and
        so does what was built and is not in the store, such as after a backup came back."""
        self._builder.clear()
        here = self._patches_here()
        now = self._now()
        with self._store.transaction() as tx:
            for row in deltas.every(tx, State.BUILDING):
                deltas.put(tx, row_state.lost(row, now))
            for row in deltas.every(tx, State.BUILT):
                if here and here.get(row.patch) != row.patch_length:
                    deltas.put(tx, row_state.bereft(row, now))

    def look(self, wishes: Iterable[ClassWish]) -> bool:
        """Let the queue follow what classes are told and devices report; whether there is more to
        tell. Devices are counted in a read, beside whoever writes."""
        now = self._now()
        with self._store.read() as tx:
            wished = self._wanted(tx, tuple(wishes))
            rows = deltas.every(tx)
            change = queue_plan.follow(rows, wished, now)
            broken = self._anew(tx, now)
        if change or broken:
            with self._store.transaction() as tx:
                # Looked at again: a builder may have been quicker.
                for row in self._anew(tx, now):
                    deltas.put(tx, row)
                change = queue_plan.follow(deltas.every(tx), wished, now)
                deltas.remove(tx, change.removed)
                for row in change.put:
                    deltas.put(tx, row)
        self._end_unwanted()
        return self.offer() or bool(broken)

    def offer(self) -> bool:
        """Mark what devices are to be told of; says whether there was anything."""
        now = self._now()
        with self._store.read() as tx:
            ready = queue_plan.to_offer(deltas.every(tx), now)
        if ready:
            with self._store.transaction() as tx:
                deltas.offer(tx, ready)
            _log.info("deltas offered", count=len(ready))
        return bool(ready)

    def build_next(self) -> bool:
        """Build what is due, one; False if nothing is."""
        taken = self._take()
        if taken is None:
            return False
        row, stop, whole = taken
        try:
            self._build(row, stop, whole)
        finally:
            # After its row was written: a row that is being built, and not here, is lost.
            if self._building.get(row.key) is stop:
                del self._building[row.key]
        return True

    def _build(
        self, row: DeltaRow, stop: threading.Event, whole: tuple[Mapping[str, Any], ...]
    ) -> None:
        try:
            built = self._builder.build(row, whole, stop)
        except BuildStopped:
            self._finish(row.key, row_state.interrupted)
        except DiskFull as error:
            self._finish(row.key, _telling(row_state.postponed, error))
        except MailboatError as error:
            self._finish(row.key, _telling(row_state.failed, error))
        except BaseException:
            # A defect of ours. Without this the row would stay as it is until the next start.
            self._finish(row.key, lambda held, now: row_state.failed(held, *_DEFECT, now))
            raise
        else:
            self._finish(row.key, lambda held, now: _finished(held, built, now), built)

    def stop(self) -> None:
        """End what is being built, and begin nothing more."""
        self._stopped = True
        for event in tuple(self._building.values()):
            event.set()

    @property
    def stopped(self) -> bool:
        return self._stopped

    def _wanted(self, tx: Transaction, wishes: tuple[ClassWish, ...]) -> dict[Key, Wanted]:
        running = deployed.count(tx)
        live = deployed.live_by_class(tx)
        told = {wish.hardware_class for wish in wishes}
        facts = {
            document.metadata.name: ClassFacts(
                hardware_class=document.metadata.name,
                memory_budget_bytes=document.spec.memory_budget,
                devices=live.get(document.metadata.name, 0),
                deployed=[e for e in running if e.hardware_class == document.metadata.name],
            )
            for document in classes.every(tx)
            if document.metadata.name in told
        }
        targets = tuple(target for wish in wishes for target in targets_of(wish))
        named = {each.release for each in targets} | {each.predecessor for each in targets}
        named |= {each.digest for each in running}
        return wanted(targets, facts, _documents(tx, named), bases_max=self._bases_max)

    def _take(self) -> tuple[DeltaRow, threading.Event, tuple[Mapping[str, Any], ...]] | None:
        """The next that is due, noted as being built; and what is known of its target."""
        now = self._now()
        with self._store.read() as tx:
            due = deltas.next_waiting(tx, now)
        if due is None or self._stopped:
            return None
        with self._store.transaction() as tx:
            row = deltas.next_waiting(tx, now)
            if row is None:
                return None
            row = row_state.started(row, now)
            deltas.put(tx, row)
            alike = deltas.of_targets(tx, [row.key.target])
            stop = self._building[row.key] = threading.Event()
        if self._stopped:
            stop.set()
        whole = next((e.candidates for e in alike if not e.key.base and e.candidates), ())
        return row, stop, whole

    def _finish(self, key: Key, become: Become, built: Built | None = None) -> None:
        now = self._now()
        with self._store.transaction() as tx:
            held = deltas.find(tx, key)
            if held is None or held.state is not State.BUILDING:
                return  # nobody wants it any more
            row = become(held, now)
            if built is not None and built.delta is not None:
                # Until here nothing named it, and a collection may have been quicker: it removes
                # in a transaction of its own, before this one or after it.
                if self._builder.artifacts.has(row.patch, row.patch_length):
                    note_stored(tx, row.patch, actor=ACTOR, now=now)
                else:
                    row = row_state.failed(held, *_COLLECTED, now)
            deltas.put(tx, row)
        _log.info(
            "delta",
            target=key.target[:16],
            base=key.base[:16],
            state=row.state.value,
            problem=row.error,
            format=row.format,
            patch_length=row.patch_length,
        )

    def _anew(self, tx: Transaction, now: datetime) -> list[DeltaRow]:
        """What is to be built again: nobody builds it any more, though it says so (the database
        was busy when it ended), or a check of the store has found its patch damaged."""
        damaged = {each.digest for each in artifact_life.damaged(tx)}
        building = deltas.every(tx, State.BUILDING)
        lost = [row_state.lost(row, now) for row in building if row.key not in self._building]
        if not damaged:
            return lost
        built = deltas.every(tx, State.BUILT)
        return lost + [row_state.bereft(row, now) for row in built if row.patch in damaged]

    def _patches_here(self) -> dict[str, int] | None:
        """Lengths of everything in the store, by digest; None while it cannot be asked. Where there
        is nothing at all, a disk is not mounted, rather than every patch lost."""
        try:
            return {each.digest: each.length for each in self._builder.artifacts.entries()}
        except (MailboatError, OSError) as error:
            _log.warning("patches are not looked for", problem=str(error))
            return None

    def _end_unwanted(self) -> None:
        """Dropped or forgotten while it is built."""
        with self._store.read() as tx:
            held = {row.key for row in deltas.every(tx, State.BUILDING)}
        for key, event in tuple(self._building.items()):
            if key not in held:
                event.set()


def _documents(tx: Transaction, digests: Iterable[str | None]) -> dict[str, ReleaseDocument]:
    found = [releases.by_digest(tx, digest) for digest in digests if digest is not None]
    return {row.digest: row.parsed() for row in found if row is not None}


def _telling(become: Telling, error: MailboatError) -> Become:
    return lambda held, now: become(held, error.code, error.what, now)


def _finished(row: DeltaRow, built: Built, now: datetime) -> DeltaRow:
    told = {"candidates": built.rows, "seconds": built.seconds, "code": "", "error": ""}
    if built.delta is None:
        return row_state.move(row, Trigger.DECLINE, now, **told)
    return row_state.move(
        row,
        Trigger.BUILD,
        now,
        format=built.delta.format,
        patch=built.delta.patch,
        patch_length=built.delta.patch_length,
        memory_bytes=built.delta.memory_bytes,
        offered=False,
        **told,
    )
