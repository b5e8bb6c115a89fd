"""Defects to be planted, each a mistake that was made somewhere: a harness has to see them.

Production code knows nothing of them. `plant` changes this process for good, so it is called in a
process of its own. ``scenes`` are those in which the harnesses look for the defect.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from mailboat_agent import atomic_file, intake, ledger, reconcile, state_file
from mailboat_agent.artifacts import part_file, release_store
from mailboat_agent.journal import database, outbox
from mailboat_agent.model_view import ModelView
from mailboat_agent.trust import trust_store
from mailboat_agent.update import decide, events, moves, refuge
from mailboat_schemas.reports import ModelPhase

MUTANT_VARIABLE = "MAILBOAT_FAULTS_MUTANT"
WHOLE, DELTA, DEADLY = (
    "install of a whole release",
    "install from a delta",
    "release that takes the device down",
)
REFUGE, ROTATED, OUTBOX = (
    "predecessor withdrawn during a trial",
    "rotated root and a withdrawn release",
    "outbox",
)


@dataclass(frozen=True, slots=True)
class Mutant:
    name: str
    plant: Callable[[], None]
    scenes: tuple[str, ...] = (WHOLE,)
    only_power: bool = False  # what the kernel was told stays told: only a power cut shows it


def _everywhere(original: Any, replacement: Any) -> None:
    """In every module of the agent that knows it by a name of its own."""
    for name, module in list(sys.modules.items()):
        if name.startswith("mailboat_agent"):
            for known_as, value in list(vars(module).items()):
                if value is original:
                    setattr(module, known_as, replacement)


class _Os:
    """``os`` as one module sees it, with a function that does less."""

    def __init__(self, **instead: Callable[..., Any]) -> None:
        self.__dict__.update(instead)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def _unsynced(*modules: ModuleType) -> None:
    for module in modules:
        module.os = _Os(fsync=lambda _: None)  # type: ignore[attr-defined]


def _written(path: Path, content: bytes, mode: int = 0o600) -> int:
    """A new file with this content, not synced; the descriptor."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    descriptor = os.open(path, flags, mode)
    atomic_file.write_all(descriptor, content)
    return descriptor


def _replace_unsynced(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    new = path.with_name(path.name + ".new")
    with atomic_file.disk_errors("writing"):
        os.close(_written(new, content, mode))
        new.replace(path)
        atomic_file.fsync_directory(path.parent)


def _replace_and_sync_then(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    new = path.with_name(path.name + ".new")
    with atomic_file.disk_errors("writing"):
        descriptor = _written(new, content, mode)
        new.replace(path)
        os.fsync(descriptor)
        os.close(descriptor)
        atomic_file.fsync_directory(path.parent)


def _replace_in_place(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    with atomic_file.disk_errors("writing"):
        descriptor = _written(path, content, mode)
        os.fsync(descriptor)
        os.close(descriptor)
        atomic_file.fsync_directory(path.parent)


# --- what is durable ------------------------------------------------------------------------------


def files_not_synced() -> None:
    _unsynced(release_store, part_file)


def record_not_synced() -> None:
    state_file.replace_durably = _replace_unsynced


def names_not_synced() -> None:
    _everywhere(atomic_file.fsync_directory, lambda _: None)


def record_in_place() -> None:
    state_file.replace_durably = _replace_in_place


def renamed_before_synced() -> None:
    _everywhere(atomic_file.replace_durably, _replace_and_sync_then)


def trust_not_synced() -> None:
    def write(path: Path, content: bytes, *, mode: int) -> None:
        os.close(_written(path, content, mode))

    trust_store.write_new_durably = write
    trust_store.replace_durably = _replace_unsynced


def journal_synchronous(level: str) -> Callable[[], None]:
    def plant() -> None:
        real = database.JournalDatabase._open

        def opened(self: database.JournalDatabase) -> Any:
            connection = real(self)
            connection.execute(f"PRAGMA synchronous = {level}")
            return connection

        database.JournalDatabase._open = opened  # type: ignore[method-assign]

    return plant


def no_copy_of_the_record() -> None:
    def write(self: state_file.StateFile, content: bytes) -> None:
        state_file.replace_durably(self._path, content)

    state_file.StateFile._write = write  # type: ignore[method-assign]


def hash_not_taken() -> None:
    """A file of the right length is taken for the right file."""

    def admit(self: Any, descriptor: int, digest: str, length: int, hashed: Any) -> None:
        if os.fstat(descriptor).st_size == length:
            os.fsync(descriptor)
            os.fchmod(descriptor, 0o444)
            return
        real(self, descriptor, digest, length, hashed)

    real = release_store.ReleaseStore._admit_descriptor
    release_store.ReleaseStore._admit_descriptor = admit  # type: ignore[method-assign]


# --- what comes first -----------------------------------------------------------------------------


def event_before_the_record() -> None:
    real = ledger.Ledger.record

    def record(self: ledger.Ledger, model: str, state: Any, now: Any, evidence: Any = None) -> None:
        for event in events.implied_events(model, state, now):
            self.tell(event)
        real(self, model, state, now, evidence)

    ledger.Ledger.record = record  # type: ignore[method-assign]


def garbage_before_the_commit() -> None:
    real = reconcile.Reconciler._collect_garbage

    def collect(self: reconcile.Reconciler) -> None:
        for loop in self.loops.values():
            if loop.state.phase is ModelPhase.TRIAL and loop.state.active is not None:
                document = self._manifest.document(loop.state.active.digest)
                variant = loop.view.variant(document)
                if variant is not None:
                    self._store.collect_garbage({loop.state.active.digest, *variant.needed})
        real(self)

    reconcile.Reconciler._collect_garbage = collect  # type: ignore[method-assign]


def predecessor_removed() -> None:
    real = ModelView.named_releases

    def named(self: ModelView) -> Any:
        previous = self.state.previous
        return [each for each in real(self) if each != previous]

    ModelView.named_releases = named  # type: ignore[method-assign]


def record_before_the_files() -> None:
    decide.intact = lambda _situation, _release: True


def tries_not_counted_before() -> None:
    moves.spent_try = lambda state: state


def trust_removed_before_replaced() -> None:
    real = trust_store.TrustStore._hold

    def hold(self: trust_store.TrustStore, *args: Any) -> None:
        numbers = [path for path in self._trust.iterdir() if path.name.isdecimal()]
        highest = max((int(path.name) for path in numbers), default=0)
        for path in numbers:
            trust_store.shutil.rmtree(path)
        (self._trust / str(highest)).mkdir()  # so that the next number is another one
        real(self, *args)

    trust_store.TrustStore._hold = hold  # type: ignore[method-assign]


# --- what is forgotten ----------------------------------------------------------------------------


def journal_begun_anew() -> None:
    real = database.JournalDatabase.__init__

    def begin(self: Any, path: Path, **keywords: Any) -> None:
        for suffix in ("-wal", "-shm", ""):
            with suppress(OSError):
                path.with_name(path.name + suffix).unlink()
        real(self, path, **keywords)

    database.JournalDatabase.__init__ = begin  # type: ignore[method-assign]


def wal_removed_at_start() -> None:
    real = database.JournalDatabase.__init__

    def begin(self: Any, path: Path, **keywords: Any) -> None:
        for suffix in ("-wal", "-shm"):
            with suppress(OSError):
                path.with_name(path.name + suffix).unlink()
        real(self, path, **keywords)

    database.JournalDatabase.__init__ = begin  # type: ignore[method-assign]


def row_deleted_on_puback() -> None:
    real = outbox.Outbox.due

    def due(self: outbox.Outbox, now: float) -> Any:
        outgoing = real(self, now)
        self._rows.acknowledge(self._events.sent, 0)
        return outgoing

    outbox.Outbox.due = due  # type: ignore[method-assign]


def start_not_counted() -> None:
    def begin(self: ledger.Ledger) -> None:
        self.state = replace(self.state, session=self.state.session + 1, generation=0)
        self.state = replace(self.state, generation=self._file._generation + 1)

    ledger.Ledger.begin_session = begin  # type: ignore[method-assign]


def counter_not_recorded() -> None:
    intake.Intake.note = lambda *_: None  # type: ignore[method-assign]


def ids_made_up_anew() -> None:
    real = events.install_event_id

    def made_up(*args: Any) -> str:
        return f"{real(*args)}:{os.urandom(4).hex()}"

    events.install_event_id = made_up


def back_to_a_withdrawn_release() -> None:
    real = refuge.fall_back_to

    def fall_back(situation: Any) -> Any:
        return situation.state.previous or real(situation)

    _everywhere(real, fall_back)
    _everywhere(decide.may_serve, lambda _situation, _release: True)
    reconcile.Manifest.may_serve = lambda *_: True  # type: ignore[method-assign]


MUTANTS = (
    Mutant("files of a release not synced", files_not_synced, only_power=True),
    Mutant("record not synced", record_not_synced, only_power=True),
    Mutant("names in directories not synced", names_not_synced, only_power=True),
    Mutant("record written in place", record_in_place),
    Mutant("renamed before it is synced", renamed_before_synced, only_power=True),
    Mutant("trust metadata not synced", trust_not_synced, (ROTATED,), only_power=True),
    Mutant("journal with synchronous=OFF", journal_synchronous("OFF"), (OUTBOX,), only_power=True),
    Mutant(
        "journal with synchronous=NORMAL", journal_synchronous("NORMAL"), (OUTBOX,), only_power=True
    ),
    Mutant("no copy of the record", no_copy_of_the_record),
    Mutant("hash of a whole file not taken", hash_not_taken, ("trial that fails",)),
    Mutant("event before the record", event_before_the_record),
    Mutant("garbage collected before the commit", garbage_before_the_commit, ("trial that fails",)),
    Mutant("predecessor removed", predecessor_removed),
    Mutant("record before the files", record_before_the_files),
    Mutant("tries not counted before the attempt", tries_not_counted_before, (DEADLY,)),
    Mutant("old trust removed before the new is there", trust_removed_before_replaced, (ROTATED,)),
    Mutant("journal begun anew at the start", journal_begun_anew, (OUTBOX,)),
    Mutant("write-ahead log removed at the start", wal_removed_at_start, (OUTBOX,)),
    Mutant("row deleted when the broker confirms", row_deleted_on_puback, (OUTBOX,)),
    Mutant("start not counted", start_not_counted),
    Mutant("counter of a manifest not recorded", counter_not_recorded),
    Mutant("event ids made up anew", ids_made_up_anew),
    Mutant("back to a withdrawn release", back_to_a_withdrawn_release, (REFUGE, ROTATED)),
)


def mutant(name: str) -> Mutant:
    """
    Raises:
        StopIteration: there is none of that name.
    """
    return next(each for each in MUTANTS if each.name == name)


def plant(name: str) -> None:
    """Change this process for good."""
    mutant(name).plant()


def plant_what_the_environment_names() -> None:
    """In a started process."""
    name = os.environ.get(MUTANT_VARIABLE)
    if name:
        plant(name)
