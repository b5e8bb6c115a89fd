"""What a device does next of itself, as far as its choice between releases goes.

The same order of questions as the agent's ``update.decide``: a pin, the offer, what may be kept,
the current release. Which release it may take is eligibility's answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from mailboat_controller.explaining.checks import Explained, ExplainedCheck
from mailboat_schemas.desired import Assignment, ReleaseRef


class Move(StrEnum):
    STAYS = "stays"
    TAKES = "takes"
    FETCHES = "fetches"  # its files come, and a window is waited for
    INSTALLS = "installs"  # a trial or soak is under way
    LEAVES = "leaves"  # what it runs may not serve any more
    UNKNOWN = "unknown"  # the report does not say enough


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    move: Move
    release: ReleaseRef | None  # what it stays with, or takes
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """The releases that have a say about one model on one device.

    ``serving`` is what it runs for good, ``installing`` what is in its trial or soak, ``previous``
    what it ran before and may go back to. ``explain`` judges a release as offered, or as current.
    """

    assignment: Assignment | None
    serving: ReleaseRef | None
    installing: ReleaseRef | None
    serving_approved: bool
    pinned: ReleaseRef | None
    previous: ReleaseRef | None
    explain: Callable[[ReleaseRef, bool], Explained]

    def goes_back_to(self, ref: ReleaseRef) -> bool:
        """Without a new trial: it ran here before."""
        before = self.previous
        return self.serving is not None and before is not None and before.digest == ref.digest


def predict(named: Named) -> Prediction:
    serving, assignment = named.serving, named.assignment
    if serving is not None and not named.serving_approved:
        because = f"{serving.version} is not approved any more"
        return Prediction(move=Move.LEAVES, release=None, because=because)
    if named.installing is not None:
        because = "it is in its trial or soak"
        return Prediction(move=Move.INSTALLS, release=named.installing, because=because)
    if named.pinned is not None:
        return _pinned(named, named.pinned)
    if assignment is None:
        return _stays(serving, "no desired state names this model")
    offer = assignment.offer
    if offer is not None:
        if serving is not None and offer.release.digest == serving.digest:
            return _stays(serving, "it runs what is offered")
        towards = _towards(named, offer.release, offered=True, because="it is offered")
        if towards.move is not Move.STAYS:
            return towards
    return _without_offer(named, assignment)


def _pinned(named: Named, pinned: ReleaseRef) -> Prediction:
    serving = named.serving
    if serving is not None and serving.digest == pinned.digest:
        return _stays(serving, "it is pinned to what it runs")
    offer = None if named.assignment is None else named.assignment.offer
    offered = offer is not None and offer.release.digest == pinned.digest
    if named.goes_back_to(pinned):
        held = _first(named.explain(pinned, offered), "not_held")
        if held.passed:
            return _takes(pinned, "it is pinned to what it ran before")
        return _stays(serving, held.because)
    return _towards(named, pinned, offered=offered, because="it is pinned")


def _without_offer(named: Named, assignment: Assignment) -> Prediction:
    serving, current, previous = named.serving, assignment.current, named.previous
    kept = {ref.digest for ref in assignment.kept}
    if serving is not None and serving.digest in kept:
        return _stays(serving, "it may keep what a newer rollout superseded")
    if current is None:
        return _stays(serving, "no release is current")
    if serving is not None and serving.digest == current.digest:
        return _stays(serving, "it runs what is current")
    before = previous if serving is not None else None
    if before is not None and (before.digest == current.digest or before.digest in kept):
        return _takes(before, f"it ran before; {current.version} is current")
    return _towards(named, current, offered=False, because="it is current")


def _towards(named: Named, ref: ReleaseRef, *, offered: bool, because: str) -> Prediction:
    explained = named.explain(ref, offered)
    if explained.eligible:
        return _takes(ref, because)
    first = explained.first_no
    if explained.fetched_ahead and first is not None:
        because = f"fetched ahead: {first.because}"
        return Prediction(move=Move.FETCHES, release=ref, because=because)
    if explained.eligible is None or explained.fetched_ahead is None:
        unknown = next(check for check in explained.checks if check.passed is None)
        return Prediction(move=Move.UNKNOWN, release=ref, because=unknown.because)
    return _stays(named.serving, "" if first is None else f"{ref.version}: {first.because}")


def _takes(ref: ReleaseRef, because: str) -> Prediction:
    return Prediction(move=Move.TAKES, release=ref, because=because)


def _first(explained: Explained, name: str) -> ExplainedCheck:
    return next(check for check in explained.checks if check.name == name)


def _stays(serving: ReleaseRef | None, because: str) -> Prediction:
    return Prediction(move=Move.STAYS, release=serving, because=because)
