"""The records that follow from a step: what the state file says next. Pure."""

from dataclasses import replace
from datetime import datetime

from mailboat_agent.update.state import Installed, ModelState
from mailboat_agent.update.steps import GoBack
from mailboat_agent.update.transitions import Trigger, advance
from mailboat_schemas.eligibility import Candidate
from mailboat_schemas.events import EventKind
from mailboat_schemas.reports import ModelPhase

# Who restarts a device every day shall not fail a release by it; but a release may be the reason
# why somebody does.
STOPS_MAX = 10
VERDICTS = frozenset({EventKind.TRIAL_FAILED, EventKind.ROLLED_BACK})


def started_trial(
    state: ModelState, candidate: Candidate, *, tries: int, install: int
) -> ModelState:
    """The switch: the record names the candidate, what serves becomes its predecessor.

    ``install`` is a number that no install on this device has had. One predecessor more than is
    kept for good: a trial that fails shall not cost the oldest.
    """
    install_of = Installed(version=candidate.version, digest=candidate.digest)
    moved = replace(
        state,
        phase=advance(advance(state.phase, Trigger.STAGE), Trigger.SWITCH),
        active=install_of,
        install_of=install_of,
        tries=tries,
        stops=0,
        install=install,
        retry_epoch=candidate.retry_epoch,
        outcome="",
        outcome_version="",
        outcome_digest="",
        outcome_code="",
        outcome_because="",
    )
    # What ran before and comes again is no place to go back to from itself.
    before = (state.active, *state.predecessors)
    return moved.before(*(each for each in before if each and each.digest != install_of.digest))


def spent_try(state: ModelState) -> ModelState:
    """Durable before each attempt, so that an attempt that kills the device is counted."""
    return replace(state, tries=state.tries - 1)


def returned_try(state: ModelState) -> ModelState:
    """The attempt did not take place: the device, not the release, stood in the way."""
    return replace(state, tries=state.tries + 1)


def told_to_stop(state: ModelState) -> ModelState:
    """In the middle of an attempt, and not by the release: it is given back, `STOPS_MAX` times."""
    if state.stops >= STOPS_MAX:
        return state
    return replace(returned_try(state), stops=state.stops + 1)


def began_soak(state: ModelState, *, tries: int) -> ModelState:
    """It serves. One soak attempt, the one that begins here, is spent already."""
    return replace(state, phase=advance(state.phase, Trigger.PASSED), tries=tries - 1)


def committed(
    state: ModelState, because: str, *, security_version: int, at: datetime
) -> ModelState:
    """The commit point, which cadence is counted from: a release that failed is no switch."""
    moved = replace(
        state,
        phase=advance(state.phase, Trigger.PASSED),
        oldest=None,
        tries=0,
        switched_at=max(0, int(at.timestamp())),
        security_version=max(state.security_version, security_version),
    )
    return _with_outcome(moved, state, EventKind.COMMITTED, "", because)


def went_back(state: ModelState, step: GoBack) -> ModelState:
    """The predecessor counts again. A verdict is remembered, a mere return is not."""
    moved = replace(
        state,
        phase=advance(state.phase, Trigger.FALL_BACK if step.to else Trigger.EMPTY),
        active=step.to,
        tries=0,
    ).before(*_older_than(step.to, state.predecessors))
    if step.kind in VERDICTS and state.active is not None:
        moved = moved.with_failed(state.active.digest, state.retry_epoch)
    return _with_outcome(moved, state, step.kind, step.code, step.because)


def _older_than(
    release: Installed | None, predecessors: tuple[Installed, ...]
) -> tuple[Installed, ...]:
    """What was left behind is no place to go back to; what is older than ``release`` may be."""
    if release not in predecessors:
        return ()
    return predecessors[predecessors.index(release) + 1 :]


def superseded_in_soak(state: ModelState, because: str) -> ModelState:
    """It serves on, but nobody waits for its verdict any more: there is something to go to."""
    moved = replace(state, phase=ModelPhase.COMMITTED, tries=0)
    return _with_outcome(moved, state, EventKind.RETURNED, "superseded", because)


def _with_outcome(
    moved: ModelState, state: ModelState, kind: EventKind, code: str, because: str
) -> ModelState:
    about = state.active
    return replace(
        moved,
        outcome=str(kind),
        outcome_version="" if about is None else about.version,
        outcome_digest="" if about is None else about.digest,
        outcome_code=code,
        outcome_because=because,
    )
