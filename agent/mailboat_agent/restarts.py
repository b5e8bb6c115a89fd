"""Does a committed release come back by itself after the agent was started anew? Told once for each
install: a rollout may ask it of a ring before the next wave opens."""

from mailboat_agent.facts import Look
from mailboat_agent.ledger import Ledger
from mailboat_agent.update.events import restarted_event
from mailboat_agent.update.state import ModelState
from mailboat_schemas.reports import ModelPhase

RESTART_SECONDS = "restart_seconds"  # in the evidence: from the first look until it serves


class Restart:
    """One model, from a start of the agent until its release serves again."""

    def __init__(self, model: str, ledger: Ledger) -> None:
        self._model = model
        self._ledger = ledger
        state = ledger.model(model)
        # That had committed before this start; 0: none is waited for.
        self._install = state.install if _stands(state) else 0
        self._began: float | None = None

    def look(self, state: ModelState, serving_digest: str, look: Look) -> None:
        """
        Args:
            serving_digest: of the release that is up; empty while none is.
        """
        if not self._install:
            return
        if self._began is None:
            self._began = look.monotonic
        if not _stands(state) or state.install != self._install:
            self._install = 0  # something else has happened since: nothing was learnt
        elif state.active is not None and serving_digest == state.active.digest:
            self._install = 0
            seconds = round(look.monotonic - self._began, 3)
            self._ledger.tell(
                restarted_event(self._model, state, state.active, look.now),
                {RESTART_SECONDS: seconds},
            )


def _stands(state: ModelState) -> bool:
    """Whether what serves for good is what the newest install was of."""
    return (
        state.phase is ModelPhase.COMMITTED
        and state.install > 0
        and state.active is not None
        and state.active == state.install_of
    )
