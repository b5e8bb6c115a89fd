"""Record, then tell: the state file first, the journal after it.

The state is the authority and one event follows from it (`update.events`), so a crash between the
two lines is repaired by telling everything again at the next start. A journal that cannot be
written never keeps anybody from serving.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.journal import Journal
from mailboat_agent.state_file import StateFile
from mailboat_agent.update.events import BECAUSE_CHARS_MAX, implied_events, milliseconds
from mailboat_agent.update.state import DeviceState, ModelState
from mailboat_schemas.codec import encode
from mailboat_schemas.errors import DiskFull, MailboatError
from mailboat_schemas.events import EVIDENCE_BYTES_MAX, Event, EventKind

TOLD_MAX = 10_000
_log = logging.getLogger(__name__)


class Ledger:
    """What this device must not forget, and what it has to tell."""

    def __init__(self, state_file: StateFile, journal: Journal) -> None:
        self._file = state_file
        self._journal = journal
        self._told_in_epoch = ""  # the journal epoch that knows what the state implies
        self._told: set[str] = set()  # of the events below that are told once per start at most
        self.state = state_file.load()

    def model(self, model: str) -> ModelState:
        return self.state.models.get(model, ModelState())

    def begin_session(self) -> None:
        """Count this start.

        Raises:
            DiskFull, DiskFailing
        """
        self.save(replace(self.state, session=self.state.session + 1))

    def save(self, state: DeviceState) -> None:
        """
        Raises:
            DiskFull, DiskFailing: the old state stands.
        """
        if replace(state, generation=self.state.generation) != self.state:
            self.state = self._file.save(state)

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
            about_the_end = state.outcome != "" and event.kind == state.outcome
            self.tell(event, evidence if about_the_end else None)

    def tell_what_the_state_implies(self, now: datetime) -> None:
        """At the start, and again when the journal was lost."""
        try:
            epoch = self._journal.epoch
            if epoch == self._told_in_epoch:
                return
            self._told.clear()
            for model, state in self.state.models.items():
                for event in implied_events(model, state, now):
                    self._journal.record_event(event)
                    self._told.add(event.event_id)
            if self._told_in_epoch or self._journal.was_lost:
                self.tell_damage("journal", "The journal was damaged; a new one begins.", now)
            self._told_in_epoch = epoch
        except (DiskFull, DiskFailing) as error:
            _log.warning("The journal cannot be written: %s", error)

    def tell(self, event: Event, evidence: Mapping[str, Any] | None = None) -> None:
        """Put an event into the outbox, once whatever is called how often."""
        if event.event_id in self._told:
            return
        if evidence:
            event = event.model_copy(update={"evidence": bounded(evidence)})
        _log.info("%s %s %s %s", event.kind, event.model or "", event.version or "", event.because)
        try:
            self._journal.record_event(event)
        except (DiskFull, DiskFailing) as error:
            _log.warning("An event could not be recorded, it is told again later: %s", error)
            self._told_in_epoch = ""
        else:
            if len(self._told) >= TOLD_MAX:
                self._told.clear()  # the journal knows as well; this only spares it the question
            self._told.add(event.event_id)

    def tell_trouble(
        self, kind: EventKind, event_id: str, error: MailboatError, now: datetime
    ) -> None:
        """An event of the device as a whole, about an error."""
        self.tell(
            Event(
                event_id=event_id,
                sequence=1,
                kind=kind,
                observed_at=milliseconds(now),
                code=error.code,
                because=error.what[:BECAUSE_CHARS_MAX],
            )
        )

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
        probe = Event(
            event_id="probe",
            sequence=1,
            kind=EventKind.TRIAL_FAILED,
            observed_at=0,
            evidence=candidate,
        )
        if len(encode(probe)) < EVIDENCE_BYTES_MAX:
            kept = candidate
    return kept
