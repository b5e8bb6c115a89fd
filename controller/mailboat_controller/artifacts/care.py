"""Looking after the artifact store while the controller runs: garbage, scrub, and how it is."""

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

import structlog

from mailboat_controller.artifacts import garbage, scrub
from mailboat_controller.artifacts.artifact_store import ArtifactStore
from mailboat_controller.artifacts.garbage import Collected
from mailboat_controller.artifacts.references import Use, referenced
from mailboat_controller.artifacts.scrub import Pass, Scrubber
from mailboat_controller.artifacts.settings import ArtifactSettings
from mailboat_controller.artifacts.store_refusals import disk_trouble
from mailboat_controller.store import artifact_life, audit
from mailboat_controller.store.engine import Store
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.errors import MailboatError

ACTOR = "controller"
LISTED_MAX = 256  # of missing artifacts in an answer
LOOK_SECONDS = 60.0  # between two looks at whether something is due

_log = structlog.get_logger(__name__)


class ArtifactCare:
    """One for a controller. `collect` and `look` may be called from any thread."""

    def __init__(
        self,
        store: Store,
        artifacts: ArtifactStore,
        settings: ArtifactSettings,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._settings = settings
        self._now = now
        self._collecting = threading.Lock()
        self._collected: float | None = None  # monotonic
        self._problem: MailboatError | None = None
        self._scrubber = Scrubber(store, artifacts, settings.scrub_bytes_per_second)
        self.scrub_wanted = threading.Event()

    # --- what others tell -----------------------------------------------------------------------

    def renew(self, digest: str) -> None:
        """Somebody is about to name it: if nothing names it yet, its grace begins anew."""
        with self._store.read() as tx:
            waiting = artifact_life.is_unnamed(tx, digest)
        if waiting:
            with self._store.transaction() as tx:
                artifact_life.forget_unnamed(tx, [digest])

    def stored(self, tx: Transaction, digest: str, actor: str) -> None:
        """It was uploaded, whole: what was damaged is healed."""
        note_stored(tx, digest, actor=actor, now=self._now())

    # --- what is done ---------------------------------------------------------------------------

    def collect(self, *, actor: str, dry_run: bool = False) -> Collected:
        """
        Raises:
            Transient, OperatorNeeded: of the store.
        """
        grace, now = self._settings.grace, self._now()
        if dry_run:
            found = garbage.look(self._store, self._artifacts, grace, now)
            return Collected(found=found, removed=0, removed_bytes=0)
        with self._collecting:
            return garbage.collect(self._store, self._artifacts, grace, now, actor=actor)

    def begin_scrub(self, *, actor: str) -> Pass:
        """Begin a pass now, unless one is on its way; `scrub` goes on with it."""
        state = self._scrubber.begin(self._now(), ordered_by=actor)
        self.scrub_wanted.set()
        return state

    def newest_scrub(self) -> Pass | None:
        with self._store.read() as tx:
            return Pass.read(tx)

    def scrub(self, stop: threading.Event) -> None:
        """Whatever is due of it. Blocks, for days in a large store, until ``stop``."""
        self.scrub_wanted.clear()
        self._scrubber.count_from(self._now())
        if scrub.due(self.newest_scrub(), self._settings.scrub_every, self._now()):
            self._scrubber.run(self._now, stop)

    def look(self, stop: threading.Event | None = None) -> None:
        """See whether the store is there, note what is whole again, collect when it is time.

        Never fails: what is wrong is logged, and told by the health of the API.
        """
        try:
            self._artifacts.check()
            self._heal(stop or threading.Event())
            hours = self._settings.garbage_hours
            last = self._collected
            if hours and (last is None or time.monotonic() - last >= hours * 3600):
                self.collect(actor=ACTOR)
                self._collected = time.monotonic()
        except MailboatError as error:
            self._note(error)
        except OSError as error:
            self._note(disk_trouble(self._artifacts.place, error))
        else:
            self._problem = None

    def _note(self, error: MailboatError) -> None:
        if self._problem is None:
            _log.error("artifacts are not in order", code=error.code, problem=str(error))
        self._problem = error

    def _heal(self, stop: threading.Event) -> None:
        """Whatever came back by another way than an upload, such as from a backup."""
        with self._store.read() as tx:
            damaged = artifact_life.damaged(tx)
        for row in damaged:
            if self._scrubber.whole_again(row, self._now(), stop):
                with self._store.transaction() as tx:
                    self.stored(tx, row.digest, ACTOR)

    # --- how it is ------------------------------------------------------------------------------

    def health(self) -> Literal["ok", "damaged", "unreachable"]:
        """ok, damaged, or unreachable; from what is known, without asking the store."""
        if self._problem is not None:
            return "unreachable"
        with self._store.read() as tx:
            return "damaged" if artifact_life.damaged(tx) else "ok"

    def status(self) -> dict[str, Any]:
        """Everything an operator asks. Lists the store.

        Raises:
            Transient, OperatorNeeded: of the store.
        """
        found = garbage.look(self._store, self._artifacts, self._settings.grace, self._now())
        with self._store.read() as tx:
            used = referenced(tx)
            damaged = artifact_life.damaged(tx)
            newest = Pass.read(tx)
        kept = self._artifacts.quarantined()
        missing = self._missing(list(used.values())) if found.missing else []
        return {
            "store": self._artifacts.kind,
            "place": self._artifacts.place,
            "artifacts": found.held,
            "bytes": found.held_bytes,
            "missing": found.missing,
            "upload_again": [
                {"digest": use.digest, "length": use.length, "needed_by": use.by}
                for use in missing[:LISTED_MAX]
            ],
            "damaged": [
                {
                    "digest": row.digest,
                    "length": row.length,
                    "problem": row.problem,
                    "found_at": row.found_at,
                    "needed_by": used[row.digest].by if row.digest in used else "",
                }
                for row in damaged[:LISTED_MAX]
            ],
            "quarantined": len(kept),
            "quarantined_bytes": sum(entry.length for entry in kept),
            "unnamed": len(found.due) + len(found.waiting),
            "unnamed_bytes": found.waiting_bytes + sum(entry.length for entry in found.due),
            "scrub": scrub.as_json(newest),
        }

    def _missing(self, used: list[Use]) -> list[Use]:
        here = {entry.digest: entry.length for entry in self._artifacts.entries()}
        return sorted(
            (use for use in used if here.get(use.digest) != use.length),
            key=lambda use: (use.by, use.digest),
        )


def note_stored(tx: Transaction, digest: str, *, actor: str, now: datetime) -> None:
    """It is there, whole: its grace begins anew, and what was damaged is healed."""
    artifact_life.forget_unnamed(tx, [digest])
    if artifact_life.forget_damaged(tx, digest):
        audit.append(
            tx,
            at=now,
            actor=actor,
            action="artifact.heal",
            subject=digest,
            reason="stored again",
        )
