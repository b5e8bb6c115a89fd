"""When the disk is looked at, what is told of it, and what is still damaged.

Nothing here decides what a device serves. A file that is set aside is lacking from then on, and
`update.decide` fetches what is lacking; what serves from memory serves on.
"""

import asyncio
import logging
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.background import in_background
from mailboat_agent.drift.file_check import Damage, FileCheck, StoredFile
from mailboat_agent.drift.schedule import (
    CHECK_BYTES_PER_SECOND,
    CHECK_JITTER,
    CHECK_SECONDS,
    FIRST_CHECK_SECONDS_MAX,
)
from mailboat_agent.drift.telling import damage_event, own_damage_event, repair_event
from mailboat_agent.facts import Look
from mailboat_agent.ledger import Ledger
from mailboat_agent.model_view import ModelView
from mailboat_agent.trust.manifest import Manifest
from mailboat_schemas.errors import DiskFull

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftStatus:
    """Of the last check, and what is damaged now. ``repaired`` counts since the start."""

    checked_at: datetime | None = None
    files: int = 0
    damaged: tuple[str, ...] = ()
    repaired: int = 0

    def for_people(self) -> dict[str, object]:
        """As it stands in ``status.json``."""
        return {
            "checked_at": None if self.checked_at is None else self.checked_at.isoformat(),
            "files": self.files,
            "damaged": list(self.damaged),
            "repaired": self.repaired,
        }


class DriftWatch:
    """`step` at every look. Times are of the monotonic clock."""

    def __init__(
        self,
        *,
        store: ReleaseStore,
        manifest: Manifest,
        ledger: Ledger,
        memory: Callable[[str, str], int | None],
        rng: random.Random,
        every_seconds: float = CHECK_SECONDS,
        bytes_per_second: int = CHECK_BYTES_PER_SECOND,
    ) -> None:
        """``memory`` gives a descriptor of verified bytes, by model and sha256, to be closed."""
        self._store = store
        self._manifest = manifest
        self._ledger = ledger
        self._memory = memory
        self._rng = rng
        self._every_seconds = every_seconds
        self._bytes_per_second = bytes_per_second
        self._due_at: float | None = None
        self._check: FileCheck | None = None
        self._task: asyncio.Task[list[Damage]] | None = None
        self._files = 0
        self._told = 0  # events of this process, each with a number of its own
        self._lost: dict[str, StoredFile] | None = None  # by digest; None: not looked at yet
        self._in_place: set[str] = set()  # of those: damaged, and still under their names
        self._own: dict[str, str] = {}  # what of our own files could not be repaired, and why
        self._checked_at: datetime | None = None
        self._repaired = 0

    @property
    def status(self) -> DriftStatus:
        lost = [f"{file.model} {file.version} {file.path}" for file in (self._lost or {}).values()]
        return DriftStatus(
            checked_at=self._checked_at,
            files=self._files,
            damaged=(*sorted(lost), *sorted(self._own)),
            repaired=self._repaired,
        )

    @property
    def notes(self) -> list[str]:
        """For the report, while something is damaged."""
        models = {file.model for file in (self._lost or {}).values()}
        return [f"storage_damaged:{what}" for what in sorted(models | set(self._own))]

    def step(self, views: Sequence[ModelView], look: Look) -> None:
        """Begin a check when it is due, collect one that is over, tell what was repaired."""
        self._settle(views, look)
        if self._task is not None:
            if self._task.done():
                self._collect(self._task, look)
            return
        if self._due_at is None:
            first = min(self._every_seconds, FIRST_CHECK_SECONDS_MAX)
            self._due_at = look.monotonic + first * (1 + self._rng.random()) / 2
        if look.monotonic >= self._due_at:
            self._begin(views, look)

    def ask(self) -> None:
        """Check at the next look."""
        self._due_at = 0.0

    def close(self) -> None:
        """End what runs, at its next chunk."""
        if self._check is not None:
            self._check.stop()
        if self._task is not None:
            self._task.cancel()

    # --- a check ---------------------------------------------------------------------------------

    def _begin(self, views: Sequence[ModelView], look: Look) -> None:
        jitter = 1 + CHECK_JITTER * (2 * self._rng.random() - 1)
        self._due_at = look.monotonic + self._every_seconds * jitter
        self._look_at_own_files(look)
        self._check = check = FileCheck(
            self._store, memory=self._memory, bytes_per_second=self._bytes_per_second
        )
        wanted = {file.digest: file for view in views for file in view.stored_files()}
        # What is a directory by now is no file, and has to be looked at as well.
        files = [f for f in wanted.values() if os.path.lexists(self._store.path(f.digest))]
        self._files = len(files)

        def work() -> list[Damage]:
            self._look_at_the_journal()
            found = (check.check(file) for file in files if not check.stopped)
            return [damage for damage in found if damage is not None]

        self._task = asyncio.create_task(in_background(work, name="drift"), name="drift")

    def _look_at_the_journal(self) -> None:
        try:
            self._ledger.check_journal()  # a damaged one is set aside, and told by the ledger
        except (DiskFull, DiskFailing) as error:
            _log.warning("The journal could not be checked: %s", error)

    def _look_at_own_files(self, look: Look) -> None:
        """They are small and written by this thread alone, so they are read by it."""
        before, self._own = self._own, {}
        self._repair_own({"state"}, self._ledger.repair_state, before, look)
        self._repair_own({"trust", "manifest"}, self._manifest.repair, before, look)

    def _repair_own(
        self,
        about: set[str],
        repair: Callable[[], Mapping[str, str]],
        before: Mapping[str, str],
        look: Look,
    ) -> None:
        try:
            found = repair()
        except (DiskFull, DiskFailing) as error:
            self._own |= dict.fromkeys(about, error.what)
            for what in sorted(about - set(before)):
                self._tell_own(what, error.what, "", look)
            return
        for what, problem in found.items():
            self._tell_own(what, problem, "memory", look)
            self._repaired += 1

    def _tell_own(self, what: str, problem: str, repaired_from: str, look: Look) -> None:
        _log.warning("Damaged on the disk: %s: %s", what, problem)
        self._ledger.tell(own_damage_event(what, problem, repaired_from, self._number(), look.now))

    def _collect(self, task: "asyncio.Task[list[Damage]]", look: Look) -> None:
        self._task = self._check = None
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            _log.error("The check of stored files failed unexpectedly", exc_info=error)
            return
        self._checked_at = look.now
        told, self._in_place = self._in_place, {d.file.digest for d in task.result() if d.in_place}
        for damage in task.result():
            if damage.in_place and damage.file.digest in told:
                continue  # the same damage as at the last check
            serving = self._ledger.model(damage.file.model).serving
            _log.warning("Damaged on the disk: %s", damage.problem)
            self._ledger.tell(damage_event(damage, serving, self._number(), look.now))
            self._lost = {**(self._lost or {}), damage.file.digest: damage.file}
            if damage.repaired_from:
                self._note_repaired(damage.file, damage.repaired_from, look)

    # --- what is lost ----------------------------------------------------------------------------

    def _settle(self, views: Sequence[ModelView], look: Look) -> None:
        """What was lost and is in the store again came with a manifest, or was delivered again.

        After a start, what stands aside and is needed is what an earlier life did not repair.
        """
        if self._lost == {}:
            return
        needed = {file.digest: file for view in views for file in view.stored_files()}
        if self._lost is None:
            aside = self._store.set_aside.digests()
            self._lost = {digest: needed[digest] for digest in sorted(aside & needed.keys())}
        for digest, file in list(self._lost.items()):
            if digest not in needed:
                del self._lost[digest]
            elif not self._store.has(digest):
                self._in_place.discard(digest)
            elif digest not in self._in_place:
                source = "delivery" if file.content is None else "manifest"
                self._note_repaired(file, source, look)

    def _note_repaired(self, file: StoredFile, source: str, look: Look) -> None:
        if self._lost is not None:
            self._lost.pop(file.digest, None)
        self._store.set_aside.note_repaired(file.digest)
        self._repaired += 1
        serving = self._ledger.model(file.model).serving
        self._ledger.tell(repair_event(file, source, serving, self._number(), look.now))

    def _number(self) -> str:
        self._told += 1
        return f"{self._ledger.state.session}:{self._told}"
