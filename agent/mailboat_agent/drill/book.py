"""What is written down of drills, and told of them: the record first, the event after it."""

import logging
import math
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.drill.record import DrillFile, DrillResult, ModelDrills
from mailboat_agent.drill.requests import DUE, Request
from mailboat_agent.drill.telling import drill_event
from mailboat_agent.ledger import Ledger, bounded
from mailboat_agent.update.events import BECAUSE_CHARS_MAX, milliseconds
from mailboat_agent.update.state import Installed
from mailboat_schemas.drills import DrillOutcome
from mailboat_schemas.errors import DiskFull

PAUSE_SECONDS = 60.0  # after the disk refused
_log = logging.getLogger(__name__)


class DrillBook:
    """A disk that refuses keeps what ended in memory; nothing is begun until it is written down."""

    def __init__(self, data_dir: Path, ledger: Ledger) -> None:
        self._ledger = ledger
        self._file = DrillFile(data_dir)
        self.record = self._file.load()
        self.saved = self.record  # what the disk holds
        self._told = False
        self._not_before = -math.inf  # monotonic

    def of(self, model: str) -> ModelDrills:
        return self.record.of(model)

    def has_answered(self, request: Request) -> bool:
        return self.record.has_answered(request.order, request.model)

    def is_in_order(self, monotonic: float) -> bool:
        """Whether all that ended is on the disk, and told."""
        if self.record != self.saved:
            if monotonic < self._not_before:
                return False
            if not self._save():
                self._not_before = monotonic + PAUSE_SECONDS
                return False
        self._tell_again()
        return True

    def answer(
        self,
        request: Request,
        outcome: DrillOutcome,
        now: datetime,
        *,
        code: str = "",
        because: str,
        release: Installed | None = None,
        evidence: dict[str, object] | None = None,
    ) -> None:
        """Recorded first, told once that is durable."""
        serving = self._ledger.model(request.model).serving
        result = DrillResult(
            order=request.order,
            outcome=outcome,
            at=milliseconds(now),
            code=code,
            because=because[:BECAUSE_CHARS_MAX],
            version=None if release is None else release.version,
            digest=None if release is None else release.digest,
            serving_version=None if serving is None else serving.version,
            evidence=bounded(evidence or {}),  # a check of the release may say much
        )
        record = self.record.ended(request.model, result)
        if request.order.startswith(f"{DUE}-"):
            period = int(request.order.partition("-")[2])
            drills = replace(record.of(request.model), period=period)
            record = record.with_model(request.model, drills)
        self.record, self._told = record, False
        if self._save():
            self._tell_again()

    def begin_periods(self, model: str, period: int, every_days: int) -> None:
        """The first drill of a schedule comes with the next period."""
        self._note(model, replace(self.of(model), period=period, every_days=every_days))

    def attempts(self, request: Request) -> int:
        """That were counted for this request, and did not come to an end."""
        drills = self.of(request.model)
        return drills.tries if drills.begun == request.order else 0

    def count_attempt(self, request: Request) -> bool:
        """Durably, before it begins: one that takes the device down is not repeated for ever."""
        before, tries = self.record, self.attempts(request) + 1
        self._note(request.model, replace(self.of(request.model), begun=request.order, tries=tries))
        if self._save():
            return True
        self.record = before  # an attempt that cannot be counted is none
        return False

    def forget_attempt(self, model: str) -> None:
        self._note(model, replace(self.of(model), begun="", tries=0))
        self._save()

    def _note(self, model: str, drills: ModelDrills) -> None:
        self.record = self.record.with_model(model, drills)

    def _save(self) -> bool:
        try:
            self._file.save(self.record)
        except (DiskFull, DiskFailing) as error:
            _log.warning("What is known of drills could not be kept: %s", error)
            return False
        self.saved = self.record
        return True

    def _tell_again(self) -> None:
        """At the start too: a crash may have come between the record and the journal."""
        if self._told:
            return
        self._told = True
        for model, drills in self.saved.models.items():
            if drills.last is not None:
                self._ledger.tell(drill_event(model, drills.last))
