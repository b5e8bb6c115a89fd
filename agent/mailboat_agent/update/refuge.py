"""Where a device goes when it leaves a release: to one that ran here before, or to the declared
fallback, or to nothing. Never to one that is not approved any more.

Source: DESIGN section 4, "Withdrawn"; section 12, invariant 1.
"""

from dataclasses import dataclass

from mailboat_agent.update.situation import Situation, at_hand, intact, may_serve
from mailboat_agent.update.state import Installed
from mailboat_schemas.documents.failure_mode import FailureMode, strictest
from mailboat_schemas.reports import ModelPhase


@dataclass(frozen=True, slots=True)
class Serving:
    """What should serve. ``allowed`` False: stop it. ``intact`` False: it cannot be loaded now."""

    release: Installed | None
    allowed: bool
    intact: bool


def should_serve(situation: Situation) -> Serving:
    """What the record says should serve, and whether it still may."""
    state = situation.state
    release = state.serving
    if release is None:
        return Serving(None, allowed=False, intact=False)
    if state.phase is ModelPhase.TRIAL and not may_serve(situation, release):
        # Withdrawn while its successor is on trial: meanwhile the one before it, if there is one.
        release = fall_back_to(situation) or release
    allowed = may_serve(situation, release) and release.digest != situation.stopped
    return Serving(release, allowed=allowed, intact=intact(situation, release))


def fall_back_to(situation: Situation) -> Installed | None:
    """The newest of what ran here before that may serve and is at hand."""
    for release in situation.state.predecessors:
        if may_serve(situation, release) and at_hand(situation, release):
            return release
    return None


def refuge(situation: Situation) -> Installed | None:
    """The same; with no such release the declared fallback, unless somebody wants it closed."""
    found = fall_back_to(situation)
    if found is not None or failure_mode(situation) is FailureMode.FAIL_CLOSED:
        return found
    fallback = declared_fallback(situation)
    if fallback is None or not intact(situation, fallback):
        return None
    # A fallback that has failed here is none: the device would go back and forth.
    return None if fallback.digest in situation.state.failed else fallback


def failure_mode(situation: Situation) -> FailureMode:
    """The strictest of what the class, the device and the release that served here say."""
    left = situation.of(_left(situation))
    document = None if left is None else left.document
    return strictest(situation.failure_mode, None if document is None else document.failure_mode)


def declared_fallback(situation: Situation) -> Installed | None:
    """The approved release that the one which served here names as its fallback, held or not."""
    left = _left(situation)
    known = situation.of(left)
    if left is None or known is None or known.document is None:
        return None
    wanted = known.document.fallback
    for digest, other in (situation.known or {}).items():
        # Never the release that is being left, whatever it says of itself.
        is_other = digest not in (left.digest, _digest(situation.state.active))
        if is_other and other.standing.version == wanted and other.standing.may_serve(digest):
            return Installed(version=other.standing.version, digest=digest)
    return None


def _left(situation: Situation) -> Installed | None:
    """The release whose word counts: what served here, or a first candidate that never did."""
    return situation.state.serving or situation.state.active


def _digest(release: Installed | None) -> str:
    return "" if release is None else release.digest
