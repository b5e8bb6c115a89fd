"""Which of the releases that ran here are kept whatever else needs their room. Pure."""

from mailboat_agent.update.state import Installed, ModelState
from mailboat_schemas.reports import ModelPhase

PREDECESSORS_MAX = 2  # kept for good, beside what serves
_INSTALLING = frozenset({ModelPhase.TRIAL, ModelPhase.SOAK})


def gives_way(state: ModelState) -> tuple[Installed, ...]:
    """What is kept while there is room for it, the newest first: whatever is older than the release
    that a rollback goes to. During an install that is one more, because what served until then is
    the predecessor by now."""
    firm = 2 if state.phase in _INSTALLING else 1
    return state.predecessors[firm:]
