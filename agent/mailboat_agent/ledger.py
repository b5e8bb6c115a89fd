"""Record, then tell: the state file first, the journal after it.

The state is the authority and one event follows from it (`update.events`), so a crash between the
two lines is repaired by telling everything again at the next start. A journal that cannot be
written never keeps anybody from serving; only the next install waits for it.
"""

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.logs.incident import INCIDENTS, Tail, with_log
from mailboat_agent.logs.lines import about_release
from mailboat_agent.serving.process import ModelAltered
from mailboat_agent.state_file import StateFile
from mailboat_agent.update.allowance import Allowance
from mailboat_agent.update.events import (
    BECAUSE_CHARS_MAX,
    implied_events,
    milliseconds,
    refusal_event,
)
from mailboat_agent.update.state import DeviceState, ModelState, after_damage, first_record
from mailboat_agent.update.steps import Refusal
from mailboat_schemas.codec import encode
from mailboat_schemas.device_orders import LogLine
from mailboat_schemas.errors import DiskFull, MailboatError, TransferTooLong, TransferTooSlow
from mailboat_schemas.events import EVIDENCE_BYTES_MAX, Event, EventKind
from mailboat_schemas.reports import ModelPhase

TOLD_MAX = 10_000
UNTOLD_MAX = 256  # events that wait in memory for a journal that can be written
UNTOLD_PROVOKED_MAX = 128  # of those below: the rest is for what became of releases
# Events that others provoke with what they send. Each kind has an allowance of its own: garbage on
# the manifest topic shall not hide that a release was refused.
PROVOKED = (
    EventKind.MANIFEST_REFUSED,
    EventKind.RELEASE_REFUSED,
    EventKind.TRUST_STALE,
    EventKind.DEGRADED,
    EventKind.SECURITY,
    EventKind.DRILL_FAILED,
    EventKind.DRILL_SKIPPED,
    EventKind.SITE_ORDERED,
)
PROVOKED_BURST = 100
PROVOKED_SECONDS_EACH = 600  # afterwards: a thousand rows in a week
_log = logging.getLogger(__name__)


class Ledger:
    """What this device must not forget, and what it has to tell."""

    def __init__(
        self, state_file: StateFile, journal: Journal, *, now: datetime, rng: random.Random
    ) -> None:
        """Reads the record back. One that begins here, or is not the newest, counts on from where
        no earlier one can have been."""
        self._file = state_file
        self._journal = journal
        self._told_in_epoch = ""  # the journal epoch that knows what the state implies
        self._told: set[str] = set()  # of the events below that are told once per start at most
        self._untold: dict[str, Event] = {}  # what the journal could not take, oldest first
        self._allowances = {
            kind: Allowance(burst=PROVOKED_BURST, seconds_each=PROVOKED_SECONDS_EACH)
            for kind in PROVOKED
        }
        found = state_file.load()
        # A record that has no journal beside it: somebody or something has taken it away.
        self.log_tail: Tail = _no_log  # the newest lines, for events that tell of a failure
        self._journal_lost = bool(found.generation) and journal.is_new
        if not found.generation:
            found = first_record(now, rng)
        elif state_file.problems:
            found = after_damage(found)
        self.state = found

    def model(self, model: str) -> ModelState:
        return self.state.models.get(model, ModelState())

    def begin_session(self) -> None:
        """Count this start. A disk that refuses keeps nobody from serving."""
        counted = replace(self.state, session=self.state.session + 1)
        try:
            self.save(counted)
        except (DiskFull, DiskFailing) as error:
            _log.warning("This start could not be counted for good: %s", error)
            self.state = counted

    def save(self, state: DeviceState) -> None:
        """
        Raises:
            DiskFull, DiskFailing: the old state stands.
        """
        if replace(state, generation=self.state.generation) != self.state:
            self.state = self._file.save(state)

    def repair_state(self) -> dict[str, str]:
        """Write the record again if the disk does not hold it; what was wrong, under ``state``.

        Raises:
            DiskFull, DiskFailing: it is still so.
        """
        problems = self._file.repair()
        return {"state": "; ".join(problems)} if problems else {}

    def check_journal(self) -> None:
        """One that contradicts itself is set aside; the next look tells what is lost.

        Raises:
            DiskFull, DiskFailing
        """
        self._journal.check()

    def record(
        self,
        model: str,
        state: ModelState,
        now: datetime,
        evidence: Mapping[str, Any] | None = None,
    ) -> None:
        """Make one model's state durable, then tell what follows from it.

        Raises:
            DiskFull, DiskFailing: nothing has changed.
        """
        self.save(replace(self.state, models={**self.state.models, model: state}))
        for event in implied_events(model, state, now):
            begins = EventKind.SOAK_STARTED if state.phase is ModelPhase.SOAK else None
            about = state.outcome or begins or EventKind.TRIAL_STARTED
            self.tell(event, evidence if event.kind == about else None)

    def tell_what_the_state_implies(self, now: datetime) -> None:
        """At the start, and again when the journal was lost or could not be written."""
        try:
            for event in list(self._untold.values()):
                self._put(event)
            epoch = self._journal.epoch
            if epoch == self._told_in_epoch:
                return
            self._told.clear()
            for model, state in self.state.models.items():
                for event in implied_events(model, state, now):
                    self._put(event)
            if self._told_in_epoch or self._journal.was_lost or self._journal_lost:
                self.tell_damage("journal", "The journal was lost; a new one begins.", now)
            self._told_in_epoch = epoch
        except (DiskFull, DiskFailing) as error:
            _log.warning("The journal cannot be written: %s", error)

    def require_told(self, model: str, now: datetime) -> None:
        """Before a record is overwritten: what follows from it must be in the journal.

        Raises:
            DiskFull, DiskFailing: it cannot be written now.
        """
        for event in implied_events(model, self.model(model), now):
            if event.event_id not in self._told:
                self._put(self._untold.get(event.event_id, event))

    def tell(self, event: Event, evidence: Mapping[str, Any] | None = None) -> bool:
        """Put an event into the outbox, once whatever is called how often; whether it is new."""
        if event.event_id in self._told or event.event_id in self._untold:
            return False
        if evidence or event.kind in INCIDENTS:
            told = with_log(event.kind, bounded(evidence or {}), self.log_tail, _fits)
            event = event.model_copy(update={"evidence": told})
        try:
            if event.kind in self._allowances:
                if self._journal.has_event(event.event_id):
                    self._remember(event)
                    return False
                allowance = self._allowances[event.kind]
                if not allowance.take(event.observed_at / 1000):
                    return False
                if allowance.withheld:
                    withheld = {"withheld_before": allowance.withheld}
                    event = event.model_copy(update={"evidence": event.evidence | withheld})
                    allowance.withheld = 0
            self._put(event)
        except (DiskFull, DiskFailing) as error:
            _log.warning("An event could not be recorded, it is told again later: %s", error)
            others_too = event.kind in self._allowances
            if len(self._untold) < (UNTOLD_PROVOKED_MAX if others_too else UNTOLD_MAX):
                self._untold[event.event_id] = event
        with about_release(event.digest):
            _log.info(
                "%s %s %s %s", event.kind, event.model or "", event.version or "", event.because
            )
        return True

    def _put(self, event: Event) -> None:
        self._journal.record_event(event)
        self._untold.pop(event.event_id, None)
        self._remember(event)

    def _remember(self, event: Event) -> None:
        if len(self._told) >= TOLD_MAX:
            self._told.clear()  # the journal knows as well; this only spares it the question
        self._told.add(event.event_id)

    def tell_trouble(
        self, kind: EventKind, event_id: str, error: MailboatError, now: datetime
    ) -> bool:
        """An event of the device as a whole, about an error."""
        return self.tell(
            Event(
                event_id=event_id,
                sequence=1,
                kind=kind,
                observed_at=milliseconds(now),
                code=error.code,
                because=error.what[:BECAUSE_CHARS_MAX],
            )
        )

    def tell_refusal(self, model: str, refusal: Refusal, now: datetime) -> None:
        self.tell(refusal_event(model, refusal, self.model(model).serving, now))

    def tell_tampering(self, digest: str, error: MailboatError | None, now: datetime) -> None:
        """What somebody did to a release's bytes, if it was no accident: a server or something
        before it while they came, whoever writes to the disk later. Once for each and start."""
        if isinstance(error, TransferTooSlow | TransferTooLong | ModelAltered):
            event_id = f"security:{self.state.session}:{error.code}:{digest[:16]}"
            self.tell_trouble(EventKind.SECURITY, event_id, error, now)

    def tell_damage(self, what: str, because: str, now: datetime) -> None:
        self.tell(
            Event(
                event_id=f"damaged:{self.state.session}:{what}",
                sequence=1,
                kind=EventKind.STORAGE_DAMAGED,
                observed_at=milliseconds(now),
                code=what,
                because=because[:BECAUSE_CHARS_MAX],
            )
        )


def bounded(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """As much of it, in order, as stays under EVIDENCE_BYTES_MAX when encoded."""
    kept: dict[str, Any] = {}
    for name, value in evidence.items():
        candidate = kept | {name: value}
        if _fits(candidate):
            kept = candidate
    return kept


def _fits(evidence: Mapping[str, Any]) -> bool:
    probe = Event(
        event_id="probe",
        sequence=1,
        kind=EventKind.TRIAL_FAILED,
        observed_at=0,
        evidence=dict(evidence),
    )
    return len(encode(probe)) < EVIDENCE_BYTES_MAX


def _no_log(_count: int) -> Sequence[LogLine]:
    return ()
