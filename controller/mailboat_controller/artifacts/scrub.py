"""Reading every artifact again, at a bounded rate, and comparing it with its name.

Disks and buckets lose bits in silence, and every device that asked for the file would find out one
by one. What is damaged is taken out of its place, so that devices hear "missing" and wait, rather
than fetch wrong bytes over a link that costs money; whoever published it uploads it again.
"""

import errno
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from threading import Event
from typing import Any, Self

import structlog

from mailboat_controller.artifacts.artifact_store import COPY_BYTES, ArtifactStore, Entry
from mailboat_controller.artifacts.store_refusals import disk_trouble
from mailboat_controller.store import artifact_life, audit
from mailboat_controller.store.artifact_life import DamagedRow
from mailboat_controller.store.engine import Store
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.errors import ArtifactMissing

JOB = "scrub"
SAVE_SECONDS = 5.0  # so much reading is done again after a crash
ACTOR = "controller"
# What reading says of the file itself. Everything else (too many open files, no right to read, a
# network disk that went away) says it of the machine, and of every file one after the other.
_OF_THE_FILE = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.EISDIR})

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One reading of everything. Instants in ISO 8601, sizes in bytes."""

    started_at: str
    finished_at: str | None = None
    after: str = ""  # the last digest that was looked at
    checked: int = 0
    checked_bytes: int = 0
    damaged: int = 0

    @classmethod
    def read(cls, tx: Transaction) -> Self | None:
        content = artifact_life.job(tx, JOB)
        return None if content is None else cls(**content)

    def save(self, tx: Transaction) -> None:
        artifact_life.put_job(tx, JOB, asdict(self))

    @property
    def running(self) -> bool:
        return self.finished_at is None


def due(newest: Pass | None, every: timedelta | None, now: datetime) -> bool:
    """Whether to read: one was begun and not finished, or the last one is too long ago."""
    if newest is None:
        return False
    if newest.running:
        return True
    return every is not None and now - datetime.fromisoformat(newest.started_at) >= every


class Scrubber:
    """One reading at a time; whoever calls sees to that."""

    def __init__(self, store: Store, artifacts: ArtifactStore, bytes_per_second: int) -> None:
        self._store = store
        self._artifacts = artifacts
        self._bytes_per_second = bytes_per_second

    def begin(self, now: datetime, ordered_by: str | None = None) -> Pass:
        """Begin a pass, unless one is on its way."""
        with self._store.transaction() as tx:
            newest = Pass.read(tx)
            if newest is not None and newest.running:
                return newest
            started = Pass(started_at=now.isoformat())
            started.save(tx)
            if ordered_by is not None:
                audit.append(
                    tx,
                    at=now,
                    actor=ordered_by,
                    action="artifact.scrub",
                    subject=self._artifacts.kind,
                    reason="every file is read again",
                )
            return started

    def count_from(self, now: datetime) -> None:
        """Of a controller that never read anything: its first pass is due from now on."""
        at = now.isoformat()
        with self._store.transaction() as tx:
            if Pass.read(tx) is None:
                Pass(started_at=at, finished_at=at).save(tx)

    def run(self, now: Callable[[], datetime], stop: Event) -> Pass:
        """Go on with the pass, or begin one, to its end or until ``stop``.

        Raises:
            Transient, OperatorNeeded: the store cannot be read; the next run goes on from there.
            OSError: what is damaged cannot be taken out.
        """
        state = self.begin(now())
        saved = time.monotonic()
        for entry in self._artifacts.entries(state.after):
            problem = self._problem(entry.digest, stop, self._bytes_per_second)
            if stop.is_set():
                break
            state = replace(
                state,
                after=entry.digest,
                checked=state.checked + 1,
                checked_bytes=state.checked_bytes + entry.length,
                damaged=state.damaged + (problem is not None),
            )
            if problem is not None:
                self._take_out(entry, problem, now())
            if problem is not None or time.monotonic() - saved > SAVE_SECONDS:
                self._save(state)
                saved = time.monotonic()
        else:
            state = replace(state, finished_at=now().isoformat())
            _log.info("artifacts checked", count=state.checked, damaged=state.damaged)
        self._save(state)
        return state

    def whole_again(self, row: DamagedRow, at: datetime, stop: Event) -> bool:
        """Whether what was damaged is there and is what its name says. What is there and is not
        could not be taken out before, and is now.

        Raises:
            As `run`.
        """
        if self._artifacts.length(row.digest) is None:
            return False
        problem = self._problem(row.digest, stop, bytes_per_second=None)
        if problem is not None:
            self._take_out(Entry(row.digest, row.length), problem, at)
        return problem is None and not stop.is_set() and self._artifacts.has(row.digest)

    def _problem(self, digest: str, stop: Event, bytes_per_second: int | None) -> str | None:
        """What is wrong with it; None if nothing is, or if it went away meanwhile.

        Raises:
            ConfigurationInvalid: it cannot be read, and that is not the file's fault.
        """
        problem = ""
        for _ in range(2):  # a bit that flips in our memory is not on the disk
            seen, read_bytes = hashlib.sha256(), 0
            try:
                for chunk in self._slowly(digest, stop, bytes_per_second):
                    seen.update(chunk)
                    read_bytes += len(chunk)
            except ArtifactMissing:
                return None
            except OSError as error:
                if error.errno not in _OF_THE_FILE:
                    raise disk_trouble(self._artifacts.place, error) from error
                problem = f"it cannot be read: {error.strerror}"
                continue
            if stop.is_set() or seen.hexdigest() == digest:
                return None
            if self._artifacts.length(digest) != read_bytes:
                return None  # an upload has put the whole of it in place of what was read
            problem = f"its bytes have sha256 {seen.hexdigest()}"
        return problem

    def _slowly(self, digest: str, stop: Event, bytes_per_second: int | None) -> Iterator[bytes]:
        for chunk in self._artifacts.read(digest, chunk_bytes=COPY_BYTES):
            yield chunk
            if stop.wait(0 if bytes_per_second is None else len(chunk) / bytes_per_second):
                return

    def _take_out(self, entry: Entry, problem: str, at: datetime) -> None:
        # Recorded before it is moved: a crash in between finds it again and does both again.
        row = DamagedRow(digest=entry.digest, length=entry.length, problem=problem, found_at=at)
        with self._store.transaction() as tx:
            if artifact_life.note_damaged(tx, row):
                audit.append(
                    tx,
                    at=at,
                    actor=ACTOR,
                    action="artifact.damaged",
                    subject=entry.digest,
                    reason=problem,
                    details={"length": entry.length},
                )
        self._artifacts.quarantine(entry.digest)
        _log.error("artifact damaged", digest=entry.digest, problem=problem)

    def _save(self, state: Pass) -> None:
        with self._store.transaction() as tx:
            state.save(tx)


def as_json(state: Pass | None) -> dict[str, Any] | None:
    return None if state is None else {**asdict(state), "running": state.running}
