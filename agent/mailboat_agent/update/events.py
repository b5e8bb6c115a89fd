"""The events that a recorded state implies. Told once, and told again after a lost journal: the id
comes from the record, so whoever has heard it already knows."""

from datetime import datetime

from mailboat_agent.update.state import Installed, ModelState
from mailboat_agent.update.steps import Refusal
from mailboat_schemas.events import Event, EventKind
from mailboat_schemas.reports import ModelPhase

BECAUSE_CHARS_MAX = 1000
# Why a release that served is left, so that with no other the device stands there with nothing.
LEFT_BEHIND = frozenset({"withdrawn", "storage_damaged"})


def milliseconds(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


def install_event_id(model: str, install: int, kind: EventKind, digest: str = "") -> str:
    """``digest`` tells apart two returns after one install: to the one before, then from it."""
    return f"{model}:{install}:{kind}" + (f":{digest[:16]}" if digest else "")


def implied_events(model: str, state: ModelState, now: datetime) -> tuple[Event, ...]:
    """What must have been told about the record's newest install, oldest first."""
    kinds: list[EventKind] = []
    if state.install and (state.phase in (ModelPhase.TRIAL, ModelPhase.SOAK) or state.outcome):
        kinds.append(EventKind.TRIAL_STARTED)
    soaked = state.outcome in ("committed", "rolled_back")
    if state.install and (state.phase is ModelPhase.SOAK or soaked):
        kinds.append(EventKind.SOAK_STARTED)
    events = [_progress(model, state, kind, now) for kind in kinds]
    if state.outcome:
        events.append(_outcome(model, state, now, EventKind(state.outcome)))
    if left_with_nothing(state):
        events.append(_outcome(model, state, now, EventKind.NOTHING_TO_SERVE))
    return tuple(event for event in events if event is not None)


def left_with_nothing(state: ModelState) -> bool:
    """Whether what served here was left, and there was no other to go to."""
    served = state.outcome_code in LEFT_BEHIND or state.outcome == EventKind.ROLLED_BACK
    return state.phase is ModelPhase.ABSENT and served


def _progress(model: str, state: ModelState, kind: EventKind, now: datetime) -> Event | None:
    """Of the release that the install was of: by now the record may tell of what was left since."""
    about = state.install_of
    if about is None:
        return None
    predecessor = state.previous if state.active == about else state.active
    serving = about if kind is EventKind.SOAK_STARTED else predecessor
    return Event(
        event_id=install_event_id(model, state.install, kind),
        sequence=1,
        kind=kind,
        observed_at=milliseconds(now),
        model=model,
        version=about.version,
        digest=about.digest,
        serving_version=None if serving is None else serving.version,
        retry_epoch=state.retry_epoch,
    )


def _outcome(model: str, state: ModelState, now: datetime, kind: EventKind) -> Event:
    repeatable = kind in (EventKind.RETURNED, EventKind.NOTHING_TO_SERVE)
    digest = state.outcome_digest if repeatable else ""
    serving = state.serving
    return Event(
        event_id=install_event_id(model, state.install, kind, digest),
        sequence=1,
        kind=kind,
        observed_at=milliseconds(now),
        model=model,
        version=state.outcome_version,
        digest=state.outcome_digest,
        serving_version=None if serving is None else serving.version,
        code=state.outcome_code,
        because=state.outcome_because[:BECAUSE_CHARS_MAX],
        retry_epoch=state.retry_epoch,
    )


def restarted_event(model: str, state: ModelState, release: Installed, now: datetime) -> Event:
    """Once for each install, however often the agent is started afterwards."""
    return Event(
        event_id=install_event_id(model, state.install, EventKind.RESTARTED),
        sequence=1,
        kind=EventKind.RESTARTED,
        observed_at=milliseconds(now),
        model=model,
        version=release.version,
        digest=release.digest,
        serving_version=release.version,
        retry_epoch=state.retry_epoch,
    )


def refusal_event(model: str, refusal: Refusal, serving: Installed | None, now: datetime) -> Event:
    """One per release, retry epoch and check, however often the offer is looked at."""
    candidate, check = refusal.candidate, refusal.check
    code = check.code or check.name
    return Event(
        event_id=f"{model}:{candidate.digest[:16]}:{candidate.retry_epoch}:{code}",
        sequence=1,
        kind=EventKind.RELEASE_REFUSED,
        observed_at=milliseconds(now),
        model=model,
        version=candidate.version,
        digest=candidate.digest,
        serving_version=None if serving is None else serving.version,
        code=code,
        because=check.because[:BECAUSE_CHARS_MAX],
        retry_epoch=candidate.retry_epoch,
    )
