"""How a model leaves one release for another, or for none: serve where it goes, then record."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mailboat_agent.errand import Errands
from mailboat_agent.facts import Look
from mailboat_agent.model_record import ModelRecord
from mailboat_agent.probation import Probation
from mailboat_agent.update import moves
from mailboat_agent.update.refuge import refuge
from mailboat_agent.update.retry import Backoff
from mailboat_agent.update.situation import Situation, may_serve
from mailboat_agent.update.steps import GoBack
from mailboat_schemas.errors import MailboatError
from mailboat_schemas.events import RECOVERY_SECONDS, EventKind

_log = logging.getLogger(__name__)


class ModelReturn:
    """With a verdict on what is left, or without."""

    def __init__(
        self,
        record: ModelRecord,
        *,
        errands: Errands,
        probation: Probation,
        loading: Backoff,
        situation: Callable[[Look], Situation],
    ) -> None:
        """``loading`` says when to try again to load a release."""
        self._record = record
        self._errands = errands
        self._probation = probation
        self._loading = loading
        self._situation = situation
        self._owed: tuple[GoBack, Mapping[str, Any]] | None = None  # done, and not recorded yet
        self._left_at: float | None = None  # monotonic: when it began to go back

    def go_back(self, step: GoBack, evidence: Mapping[str, Any], look: Look) -> None:
        """Serve the predecessor first, then record: there is always one that serves."""
        if self._left_at is None:
            self._left_at = look.monotonic
        is_stopped = self._is_stopped(step, look)
        if not self._errands.go_back(step, evidence, is_stopped=is_stopped):
            self._record_return(step, evidence, look)

    def _is_stopped(self, step: GoBack, look: Look) -> bool:
        """What policy stops is gone back to, and serves no more there than before. What it stopped
        before the release that is left now came stands in the record alone."""
        situation = self._situation(look)
        return step.to is not None and step.to.digest in (
            situation.stopped,
            situation.state.stopped,
        )

    def arrived(
        self, step: GoBack, evidence: Mapping[str, Any], error: MailboatError | None, look: Look
    ) -> None:
        """Record it, unless where it goes was withdrawn on the way. Then a verdict goes elsewhere,
        and a mere return is decided anew."""
        if error:  # the next look tries again
            self._loading.failed(look.monotonic)
            _log.warning("%s: the predecessor cannot be loaded: %s", self._record.model, error)
        situation = self._situation(look)
        if step.to is None or may_serve(situation, step.to):
            self._record_return(step, evidence, look)
        else:
            self._go_elsewhere(step, evidence, situation, look)

    def settle(self, look: Look) -> None:
        """Record a return that the disk did not take when it happened. Until it does, the record
        still names the release that was left, and nobody may go by it.

        Raises:
            DiskFull, DiskFailing: not yet.
        """
        if self._owed is None:
            return
        step, evidence = self._owed
        situation = self._situation(look)
        if step.to is not None and not may_serve(situation, step.to):
            self._go_elsewhere(step, evidence, situation, look)
        elif self._loading.allows(look.monotonic):
            self.go_back(step, evidence, look)

    @property
    def owes(self) -> bool:
        return self._owed is not None

    def _go_elsewhere(
        self, step: GoBack, evidence: Mapping[str, Any], situation: Situation, look: Look
    ) -> None:
        self._owed = None
        if step.kind in moves.VERDICTS:
            self.go_back(replace(step, to=refuge(situation)), evidence, look)

    def fail(
        self, kind: EventKind, code: str, because: str, evidence: Mapping[str, Any], look: Look
    ) -> None:
        """Leave what is active for where it is safe. ``kind`` says whether that is a verdict."""
        to = refuge(self._situation(look))
        if to is None and kind is EventKind.RETURNED:
            return  # no verdict and nowhere to go: it is tried for as long as it takes
        self._loading.forget()
        self.go_back(GoBack(to=to, kind=kind, code=code, because=because), evidence, look)

    def _record_return(self, step: GoBack, evidence: Mapping[str, Any], look: Look) -> None:
        if step.kind in moves.VERDICTS and self._left_at is not None:
            seconds = round(look.monotonic - self._left_at, 3)
            evidence = {RECOVERY_SECONDS: seconds, **evidence}  # the first time says it
        self._owed = (step, evidence)
        self._record.make(moves.went_back(self._record.state, step), look, evidence)
        self._owed = self._left_at = None
        self._probation.forget()
