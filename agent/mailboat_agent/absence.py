"""What must not serve at this moment, and what callers are told while nothing does."""

from mailboat_agent.errand import Work
from mailboat_agent.model_view import ModelView
from mailboat_agent.serving.runtime import Absence
from mailboat_agent.update.events import left_with_nothing
from mailboat_agent.update.state import Installed, ModelState
from mailboat_agent.update.steps import GoBack
from mailboat_agent.work import Workbench

# Another release is most likely being loaded, which takes seconds.
SOON_SECONDS = 1
# Somebody has to approve something first, and the network has to bring it.
LATER_SECONDS = 30


def bar_what_is_withdrawn(view: ModelView, bench: Workbench, under_way: Work | None) -> None:
    """Let nothing of a model serve that is not approved (any more), nor what is being loaded.

    Args:
        under_way: what runs beside the loop.
    """
    serving = bench.serving(view.model)
    served = None if serving is None else Installed(version=serving.version, digest=serving.digest)
    step = None if under_way is None else under_way.step
    destination = step.to if isinstance(step, GoBack) else None
    bench.bar(view.model, view.not_to_be_served((served, destination)))


def absence_of(state: ModelState, because: str) -> Absence | None:
    """None for a model that has not served here, or that nobody wants here any more.

    Args:
        because: what the loop says of the model at the moment.
    """
    if left_with_nothing(state):
        return Absence(f"nothing is left to serve, {state.outcome_because}", LATER_SECONDS)
    if state.serving is not None:
        return Absence(because or "a release is being loaded", SOON_SECONDS)
    return None
