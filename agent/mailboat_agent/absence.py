"""What must not serve at this moment, and what callers are told, or given, while nothing does.

What a document grants counts while it is approved. What it forbids counts also afterwards: whoever
withdraws a release does not allow what it ruled out.
"""

from mailboat_agent.errand import Work
from mailboat_agent.model_view import ModelView
from mailboat_agent.serving.runtime import Absence
from mailboat_agent.update.events import left_with_nothing
from mailboat_agent.update.state import Installed
from mailboat_agent.update.steps import GoBack
from mailboat_agent.work import Workbench
from mailboat_schemas.documents.degraded_policy import DegradedPolicy
from mailboat_schemas.documents.failure_mode import FailureMode
from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.events import EventKind
from mailboat_schemas.reports import ModelPhase

# Another release is most likely being loaded, which takes seconds.
SOON_SECONDS = 1
# Somebody has to approve something first, and the network has to bring it.
LATER_SECONDS = 30
STALE_WORD = "stale"


def bar_what_is_withdrawn(view: ModelView, bench: Workbench, under_way: Work | None) -> None:
    """Let nothing of a model serve that is not approved (any more), nor what is being loaded, nor
    what policy stops.

    Args:
        under_way: what runs beside the loop.
    """
    serving = bench.serving(view.model)
    served = None if serving is None else Installed(version=serving.version, digest=serving.digest)
    step = None if under_way is None else under_way.step
    destination = step.to if isinstance(step, GoBack) else None
    stopped = frozenset() if view.stopped is None else frozenset({view.stopped.digest})
    bench.bar(view.model, view.not_to_be_served((served, destination)) | stopped)


def tell_callers(view: ModelView, bench: Workbench, because: str) -> None:
    """How requests for the model are answered from now on, when not by what is wanted.

    Args:
        because: what the loop says of the model at the moment.
    """
    bench.explain_absence(view.model, absence_of(view, because))
    if view.state.phase is not ModelPhase.TRIAL:  # of which the record forgets what was before
        bench.note_fallback(view.model, *declared_fallback(view))


def absence_of(view: ModelView, because: str) -> Absence | None:
    """None for a model that has not served here, or that nobody wants here any more."""
    state = view.state
    if left_with_nothing(state):
        left = Installed(version=state.outcome_version, digest=state.outcome_digest)
        word = state.outcome_code or state.outcome
        what = f"nothing is left to serve, {state.outcome_because}"
        return _absence(view, left, what, LATER_SECONDS, word)
    if view.stopped is not None:
        what = "it is further behind than policy allows"
        return _absence(view, view.stopped, what, LATER_SECONDS, STALE_WORD, for_good=True)
    if state.serving is not None:
        word = "" if view.is_vouched_for else "trust-damaged"
        what = because or "a release is being loaded"
        return _absence(view, state.serving, what, SOON_SECONDS, word)
    return None


def _absence(
    view: ModelView,
    release: Installed,
    because: str,
    retry_seconds: int,
    word: str,
    *,
    for_good: bool = False,
) -> Absence:
    document = view.document(release.digest)
    may_serve = not view.not_to_be_served((release,)) & {release.digest}
    for_good = for_good or not may_serve or left_with_nothing(view.state)
    return Absence(
        because,
        retry_seconds,
        word=word or ("not-loaded" if may_serve else "withdrawn"),
        policy=_policy(view, document, grants=may_serve),
        interface=None if document is None else document.interface,
        closed=for_good and view.failure_mode(document) is FailureMode.FAIL_CLOSED,
        version=release.version,
        digest=release.digest,
    )


def _policy(
    view: ModelView, document: ReleaseDocument | None, *, grants: bool
) -> DegradedPolicy | None:
    variant = view.variant(document)
    if variant is None:
        return None
    policy = None if variant.serving is None else variant.serving.degraded
    if policy is None:
        return DegradedPolicy()
    return policy if grants else DegradedPolicy(inputs_stay_on_device=policy.inputs_stay_on_device)


def declared_fallback(view: ModelView) -> tuple[str, str]:
    """Digest of what serves, if only as the declared fallback of what was left, and why; or two
    empty words."""
    state = view.state
    left = state.outcome in (EventKind.RETURNED, EventKind.ROLLED_BACK)
    if state.active is None or not left or view.is_assigned(state.active.digest):
        return "", ""
    if view.fallback_of(state.outcome_digest) != state.active:
        return "", ""
    return state.active.digest, state.outcome_code or state.outcome
