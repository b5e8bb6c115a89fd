"""What is told of degraded answers: events at their begin and end, notes, status, telemetry.

An unsure answer is no event of its own: its share is declared, and counted.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from mailboat_agent.degraded.answers import Answers
from mailboat_agent.degraded.modes import Counts, Mode
from mailboat_agent.degraded.pressure import Gauge, Pressure
from mailboat_agent.ledger import Ledger
from mailboat_agent.update.events import BECAUSE_CHARS_MAX, milliseconds
from mailboat_schemas.events import Event, EventKind

NOTES_MAX = 4  # of the report's sixteen; the status has all
DEVICE = ""  # the device as a whole, where a model stands otherwise


@dataclass(frozen=True, slots=True)
class _Begun:
    code: str
    number: int
    was_told: bool  # or withheld: what is not told to begin is not told to end


class Degraded:
    """Everything about degraded answers that one process holds."""

    def __init__(self, answers: Answers, counts: Counts, gauge: Gauge) -> None:
        self.answers = answers
        self.gauge = gauge
        self._counts = counts
        self._begun: dict[str, _Begun] = {}  # by model; and has not ended
        self._number = 0
        self._sensed_at = -math.inf

    def drain(self, model: str) -> Mapping[str, int]:
        """Degraded answers since the last drain, for a telemetry window."""
        return self._counts.drain(model)

    def current(self, monotonic: float) -> dict[str, tuple[str, str]]:
        """What is degraded now: by model (or `DEVICE`) a word, and why."""
        found = {
            model: (str(standing.mode), standing.because)
            for model, standing in self._counts.now_degraded(monotonic).items()
            if standing.mode is not Mode.LOW_CONFIDENCE and standing.because != "low-confidence"
        }
        reading = self.gauge.reading
        if reading.pressure is not Pressure.NONE:
            found[DEVICE] = (f"pressure-{reading.word}", reading.because)
        return found

    def notes(self, monotonic: float) -> list[str]:
        current = self.current(monotonic)
        notes = [
            f"degraded:{model}:{word}" if model else word for model, (word, _) in current.items()
        ]
        return sorted(notes)[:NOTES_MAX]

    def status(self, monotonic: float) -> dict[str, object]:
        """For people and scripts on the device."""
        current = self.current(monotonic)
        return {
            "now": {
                model or "device": {"mode": word, "because": because}
                for model, (word, because) in current.items()
            },
            "answers": self._counts.totals(),
            "endpoints": self.answers.elsewhere.status(),
        }

    def look(self, ledger: Ledger, now: datetime, monotonic: float) -> None:
        """Read the sensors if it is time; tell what has begun or ended since the last look."""
        if self.gauge.watches and monotonic >= self._sensed_at + self.gauge.check_seconds:
            self._sensed_at = monotonic
            self.gauge.look()
        current = self.current(monotonic)
        for model, (word, because) in current.items():
            begun = self._begun.get(model)
            if begun is not None and begun.code == word:
                continue
            self._number += 1
            event = self._event(ledger, EventKind.DEGRADED, model, word, self._number, now)
            event = event.model_copy(update={"because": because[:BECAUSE_CHARS_MAX]})
            was_told = ledger.tell(event, self._evidence(model))
            before = begun is not None and begun.was_told
            self._begun[model] = _Begun(word, self._number, was_told or before)
        for model in self._begun.keys() - current.keys():
            ended = self._begun.pop(model)
            if ended.was_told:
                event = self._event(
                    ledger, EventKind.RECOVERED, model, ended.code, ended.number, now
                )
                ledger.tell(event, self._evidence(model))

    def close(self) -> None:
        self.answers.elsewhere.close()

    def _evidence(self, model: str) -> Mapping[str, object] | None:
        totals = self._counts.totals().get(model)
        return {"answers": totals} if totals else None

    @staticmethod
    def _event(
        ledger: Ledger, kind: EventKind, model: str, code: str, number: int, now: datetime
    ) -> Event:
        return Event(
            event_id=f"{kind}:{ledger.state.session}:{number}",
            sequence=1,
            kind=kind,
            observed_at=milliseconds(now),
            model=model or None,
            code=code,
        )
