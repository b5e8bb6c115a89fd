"""One model's part of the record: read, made durable, and what follows from it told."""

from collections.abc import Callable, Mapping
from typing import Any

from mailboat_agent.facts import Look
from mailboat_agent.ledger import Ledger
from mailboat_agent.update.state import ModelState


class ModelRecord:
    def __init__(self, model: str, ledger: Ledger, wake: Callable[[], None]) -> None:
        """``wake`` asks for another look soon: what comes next depends on the record."""
        self.model = model
        self.ledger = ledger
        self._wake = wake

    @property
    def state(self) -> ModelState:
        return self.ledger.model(self.model)

    def make(
        self, state: ModelState, look: Look, evidence: Mapping[str, Any] | None = None
    ) -> None:
        """
        Raises:
            DiskFull, DiskFailing: nothing has changed.
        """
        self.ledger.record(self.model, state, look.now, evidence)
        self._wake()
