"""What policy makes of a model that is further behind than it may be: judged, recorded, told. Pure.

Judged by the rule that the controller explains with (`mailboat_schemas.staleness`). Nothing begins
because of what this device cannot know: with a clock that cannot be right nothing is stale here,
and with trust metadata that has expired nothing is stopped, because what it is behind may have been
taken back since. A release in its soak is not stopped either: it is being judged.

What was stopped while it could be known is recorded and stays so until the device knows better:
else whoever cuts the network, or sets the clock, would have it served again.
"""

from dataclasses import replace
from datetime import datetime

from mailboat_agent.update.events import BECAUSE_CHARS_MAX, milliseconds
from mailboat_agent.update.state import ModelState
from mailboat_schemas.events import Event, EventKind
from mailboat_schemas.policy_rules import Staleness
from mailboat_schemas.reports import ModelPhase
from mailboat_schemas.staleness import NOT_STALE, Action, Behind, Enforcement, enforcement

STALE, STOPPED = "stale", "stale-stopped"  # codes of the events
STILL_STOPPED = Enforcement(
    action=Action.STOP,
    because="it was stopped by policy, and this device cannot know that it may serve again",
)


def judge(
    state: ModelState, far: Behind | None, bound: Staleness, *, now: datetime, trust_fresh: bool
) -> Enforcement:
    """What is to be done about a model now, by what the record says should serve.

    Args:
        far: how far that is behind; None: this device cannot know.
    """
    serving = state.serving
    if serving is None:
        return NOT_STALE
    is_stopped = serving.digest == state.stopped
    if far is None:
        return STILL_STOPPED if is_stopped else NOT_STALE
    found = enforcement(far, bound, state.stale_since, now)
    if is_stopped and found.action is not Action.STOP:
        if not trust_fresh:
            return STILL_STOPPED
        # Its grace has gone by already, whatever the clock says now.
        return found if found.stops_at is None else replace(found, action=Action.STOP)
    may_stop = is_stopped or (trust_fresh and state.phase is not ModelPhase.SOAK)
    if found.action is Action.STOP and not may_stop:
        return replace(found, action=Action.WARN, stops_at=None)
    return found


def recorded(state: ModelState, found: Enforcement, now: datetime) -> ModelState:
    """The record that follows where the device can know: since when, and what was stopped. Both
    count on through restarts, and through a release that is on trial or in its soak, which may not
    stay. With nothing left to serve both are over: what comes then is a first release, which is
    tried, soaks and has its grace like any. The same object where nothing is new."""
    since, stopped, seconds = state.stale_since, state.stopped, int(now.timestamp())
    is_settled = state.phase is ModelPhase.COMMITTED or state.serving is None
    if found.action is Action.STOP and state.serving is not None:
        stopped = state.serving.digest
    elif is_settled:
        stopped = ""
    if found.action is not Action.NONE:
        since = since if 0 < since <= seconds else seconds
    elif is_settled:
        since = 0
    if (since, stopped) == (state.stale_since, state.stopped):
        return state
    return replace(state, stale_since=since, stopped=stopped)


def stale_event(model: str, state: ModelState, found: Enforcement, now: datetime) -> Event | None:
    """Once for each release and beginning, however often it is asked for; None: nothing is stale,
    or it is not recorded yet since when."""
    serving, since = state.serving, state.stale_since
    if serving is None or not since or found.action is Action.NONE:
        return None
    code = STOPPED if found.action is Action.STOP else STALE
    return Event(
        event_id=f"{code}:{model}:{serving.digest[:16]}:{since}",
        sequence=1,
        kind=EventKind.DEGRADED,
        observed_at=milliseconds(now),
        model=model,
        version=serving.version,
        digest=serving.digest,
        code=code,
        because=found.because[:BECAUSE_CHARS_MAX],
    )


def over_event(model: str, before: ModelState, now: datetime) -> Event:
    """That it is not stale any more; ``before`` says since when it was."""
    return Event(
        event_id=f"stale-over:{model}:{before.stale_since}",
        sequence=1,
        kind=EventKind.RECOVERED,
        observed_at=milliseconds(now),
        model=model,
        code=STALE,
    )
