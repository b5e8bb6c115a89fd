"""What happens next for one model on this device, and why.

One rule says whether a release may be installed here (`mailboat_schemas.eligibility`); this module
says which release is asked about, and what the recorded phase makes of the answer.
"""

from datetime import datetime

from mailboat_agent.update.events import LEFT_BEHIND
from mailboat_agent.update.refuge import declared_fallback, failure_mode, fall_back_to, refuge
from mailboat_agent.update.situation import (
    Situation,
    at_hand,
    candidate_for,
    intact,
    lacking,
    may_serve,
    shadow_comes_first,
)
from mailboat_agent.update.state import Installed
from mailboat_agent.update.steps import (
    Activate,
    BeginSoak,
    GoBack,
    Keep,
    Refusal,
    RunShadow,
    RunTrial,
    Stage,
    StartTrial,
    Step,
    Suspend,
    WatchSoak,
)
from mailboat_schemas.desired import ReleaseRef
from mailboat_schemas.documents.failure_mode import FailureMode
from mailboat_schemas.eligibility import evaluate, may_fetch_ahead
from mailboat_schemas.events import EventKind
from mailboat_schemas.reports import ModelPhase
from mailboat_schemas.switch_timing import CADENCE, WINDOW

# Checks whose no is the release's or its publisher's business. The others only mean "not now".
REFUSING_CHECKS = frozenset(
    {"approved", "within_plan", "class_matches", "runtime", "memory", "disk", "no_downgrade"}
)

# What stands in the way of fetching a release that has run here before.
_OF_THE_DEVICE = frozenset({"trust_fresh", "class_matches", "runtime", "memory", "disk"})
# What does not stand in the way of a fallback: it is there for when the choice cannot be had.
_OF_THE_CHOICE = frozenset({"no_downgrade", "as_pinned", CADENCE})
HELD = "not_held"


def decide(situation: Situation, now: datetime) -> Step:
    """The next step for one model. May be asked as often as one likes; only facts change it."""
    state = situation.state
    if situation.known is None:
        if state.serving is None:
            return Keep(because="trust metadata on this device does not verify")
        return Suspend(because="trust metadata on this device does not verify")
    if state.active is None:
        return _towards_target(situation, now)
    if not may_serve(situation, state.active):
        return _leave(situation, "withdrawn", f"{state.active.version} is not approved any more")
    match state.phase:
        case ModelPhase.TRIAL:
            return _in_trial(situation, state.active, now)
        case ModelPhase.SOAK:
            return _in_soak(situation, state.active, now)
        case ModelPhase.COMMITTED:
            step = _committed(situation, state.active, now)
            return _repaired(situation, state.active, step, now)
        case ModelPhase.ABSENT | ModelPhase.STAGING:
            raise AssertionError("a recorded release is in trial, in soak or committed")


def _in_trial(situation: Situation, active: Installed, now: datetime) -> Step:
    state = situation.state
    if not _named(situation, active, now):
        return _leave(situation, "superseded", f"{active.version} is not wanted any more")
    if not intact(situation, active):
        return _leave(situation, "storage_damaged", f"files of {active.version} were damaged")
    if situation.trial_passed:
        if shadow_comes_first(situation, active):
            return RunShadow(because=f"live requests are mirrored to {active.version}")
        return Activate(because=f"{active.version} passed its trial and is still wanted")
    if situation.attempt_running:
        return Keep(because=f"{active.version} is on trial")
    if state.tries <= 0:
        return GoBack(
            to=refuge(situation),
            kind=EventKind.TRIAL_FAILED,
            code="tries_exhausted",
            because=f"no attempt at the trial of {active.version} came to an end",
        )
    return RunTrial(because=f"trial of {active.version}, {state.tries} tries left")


def _in_soak(situation: Situation, active: Installed, now: datetime) -> Step:
    state = situation.state
    if not at_hand(situation, active):
        return _leave(situation, "storage_damaged", f"files of {active.version} were damaged")
    pinned = situation.facts.pin_of(situation.model, now) is not None
    if not (_named(situation, active, now) or (_kept(situation, active) and not pinned)):
        because = f"{active.version} is not wanted any more"
        if fall_back_to(situation) is not None:
            return _leave(situation, "superseded", because)
        # Nothing to go back to: it serves on until there is something to go to.
        target = _towards_target(situation, now)
        if isinstance(target, Stage | StartTrial):
            return target
    if situation.attempt_running:
        return WatchSoak(because=f"{active.version} is soaking")
    if state.tries <= 0:
        return GoBack(
            to=refuge(situation),
            kind=EventKind.ROLLED_BACK,
            code="tries_exhausted",
            because=f"the soak of {active.version} was cut short by a restart each time",
        )
    return BeginSoak(because=f"soak of {active.version}, {state.tries} tries left")


def _committed(situation: Situation, active: Installed, now: datetime) -> Step:
    assignment = situation.assignment
    if not at_hand(situation, active) and fall_back_to(situation) is not None:
        return _leave(situation, "storage_damaged", f"files of {active.version} were damaged")
    pinned = _pinned(situation, active, now)
    if pinned is not None:
        return pinned
    if assignment is None:
        return Keep(because="no desired state names this model")
    offer, current = assignment.offer, assignment.current
    if offer is not None and offer.release.digest == active.digest:
        return Keep(because=f"{active.version} is offered and runs")
    step, refusals = _offered(situation, now)
    if step is not None:
        return step
    if _kept(situation, active):
        because = f"{active.version} stays until the next release reaches this device"
        return Keep(because=_because(because, refusals), refusals=refusals)
    if current is None:
        return Keep(because=_because("no release is current", refusals), refusals=refusals)
    if current.digest == active.digest:
        return Keep(because=_because(f"{active.version} is current", refusals), refusals=refusals)
    previous = fall_back_to(situation)
    if previous is not None and (previous.digest == current.digest or _kept(situation, previous)):
        # It ran here before and is still approved: no new trial.
        return GoBack(
            to=previous,
            kind=EventKind.RETURNED,
            code="superseded",
            because=f"{active.version} is not wanted any more, {current.version} is current",
        )
    return _candidate_step(situation, current, offered=False, refusals=refusals, now=now)


def _pinned(situation: Situation, active: Installed | None, now: datetime) -> Step | None:
    """To the release that a person pinned, within what its plan allows; None: there is no pin."""
    pin = situation.facts.pin_of(situation.model, now)
    if pin is None:
        return None
    if active is not None and active.digest == pin.digest:
        return Keep(because=f"{pin.version} runs and is pinned by {pin.by}: {pin.reason}")
    ref = ReleaseRef(version=pin.version, digest=pin.digest)
    assignment = situation.assignment
    offer = None if assignment is None else assignment.offer
    offered = offer is not None and offer.release.digest == pin.digest
    before = fall_back_to(situation)
    if active is not None and before is not None and before.digest == pin.digest:
        candidate = candidate_for(situation, ref, offered=offered)
        held = next(c for c in evaluate(situation.facts, candidate, now).checks if c.name == HELD)
        if held.passed:
            because = f"{pin.version}, which ran before, is pinned by {pin.by}: {pin.reason}"
            kind = EventKind.RETURNED
            if pin in situation.facts.site_pins:
                return GoBack(to=before, kind=kind, code="site_order", because=because)
            return GoBack(to=before, kind=kind, code="pinned", because=because)
        return Keep(because=held.because, refusals=(Refusal(candidate=candidate, check=held),))
    return _candidate_step(situation, ref, offered=offered, refusals=(), now=now)


def _repaired(situation: Situation, active: Installed, step: Step, now: datetime) -> Step:
    """The step towards what is wanted, unless files that were lost have to be fetched first.

    What serves comes before anything new is tried on the device: it is where a failed trial leads
    back to. If nobody has its files any more, something new is the way out.
    """
    given_up = situation.cannot_fetch == active.digest and isinstance(step, Stage | StartTrial)
    if not intact(situation, active) and not isinstance(step, GoBack) and not given_up:
        return _restore(situation, active)
    if not isinstance(step, Keep):
        return step
    repaired = _fetch_damaged_predecessor(situation, step, now)
    return _fetch_fallback(situation, repaired, now) if isinstance(repaired, Keep) else repaired


def _fetch_damaged_predecessor(situation: Situation, step: Keep, now: datetime) -> Step:
    """Where a rollback goes, if the disk has lost it. What was removed for room stays away."""
    previous = situation.state.previous
    if previous is None or situation.cannot_fetch == previous.digest:
        return step
    lost = (lacking(situation, previous) or frozenset()) & situation.set_aside
    if not lost or not may_serve(situation, previous):
        return step
    candidate = candidate_for(situation, previous, offered=False)
    checks = evaluate(situation.facts, candidate, now).checks
    if not all(check.passed is True for check in checks if check.name in _OF_THE_DEVICE):
        return step
    because = f"{step.because}; files of {previous.version}, which ran before, were damaged"
    return Stage(candidate=candidate, because=because, refusals=step.refusals)


def _fetch_fallback(situation: Situation, step: Keep, now: datetime) -> Step:
    """With nothing better to do: have the declared fallback at hand before it is needed."""
    fallback = declared_fallback(situation)
    if fallback is None or failure_mode(situation) is FailureMode.FAIL_CLOSED:
        return step
    candidate = candidate_for(situation, fallback, offered=False)
    checks = evaluate(situation.facts, candidate, now).checks
    # Going to it is a rollback, which a downgrade is the point of.
    passed_over = _OF_THE_CHOICE | ({WINDOW} if situation.facts.rules.fetches_ahead else set())
    fits = all(check.passed is True for check in checks if check.name not in passed_over)
    if intact(situation, fallback) or not fits:
        return step
    because = f"{step.because}; its fallback {fallback.version} is fetched ahead"
    return Stage(candidate=candidate, because=because, refusals=step.refusals)


def _towards_target(situation: Situation, now: datetime) -> Step:
    """With nothing that counts on the device: the offer if it lets the device in, or current."""
    assignment = situation.assignment
    pinned = _pinned(situation, None, now)
    if pinned is not None:
        return pinned
    if assignment is None:
        return Keep(because="no desired state names this model")
    step, refusals = _offered(situation, now)
    if step is not None:
        return step
    if assignment.current is None:
        return Keep(because=_because("no release is current", refusals), refusals=refusals)
    return _candidate_step(situation, assignment.current, offered=False, refusals=refusals, now=now)


def _offered(situation: Situation, now: datetime) -> tuple[Step | None, tuple[Refusal, ...]]:
    """The step towards the offered release, or why it is not for this device now."""
    assignment = situation.assignment
    if assignment is None or assignment.offer is None:
        return None, ()
    step = _candidate_step(situation, assignment.offer.release, offered=True, refusals=(), now=now)
    if isinstance(step, Keep):
        return None, step.refusals
    return step, ()


def _candidate_step(
    situation: Situation,
    ref: ReleaseRef,
    *,
    offered: bool,
    refusals: tuple[Refusal, ...],
    now: datetime,
) -> Step:
    """Stage it, start its trial if everything is here, or keep and say what is in the way."""
    candidate = candidate_for(situation, ref, offered=offered)
    found = evaluate(situation.facts, candidate, now)
    refusal = found.refusal
    if may_fetch_ahead(situation.facts, found) and not intact(situation, ref):
        because = f"{ref.version} is fetched ahead: {refusal.because if refusal else ''}"
        return Stage(candidate=candidate, because=because)
    if refusal is not None:
        refusals = (*refusals, Refusal(candidate=candidate, check=refusal))
        return Keep(because=_because("", refusals), refusals=refusals)
    because = f"{ref.version} is {'offered to this device' if offered else 'current'}"
    kind = StartTrial if intact(situation, ref) else Stage
    return kind(candidate=candidate, because=because, refusals=refusals)


def _restore(situation: Situation, active: Installed) -> Step:
    """Fetch a damaged release again; it was approved and tried, so it may be had back."""
    candidate = candidate_for(situation, active, offered=False)
    because = f"files of {active.version} were damaged on this device"
    may_fetch = candidate.document is not None and candidate.standing.may_install(active.digest)
    is_fresh = situation.facts.trust_fresh and situation.facts.clock_trusted
    if situation.in_memory == active.digest:
        because += "; it serves from memory"
        if not (may_fetch and is_fresh):
            return Keep(because=because)
        return Stage(candidate=candidate, because=because)
    if not is_fresh:
        return Suspend(because=because + "; trust metadata has expired")
    if not may_fetch:
        return _leave(situation, "storage_damaged", because)
    return Stage(candidate=candidate, because=because)


def _leave(situation: Situation, code: str, because: str) -> GoBack:
    """Without a verdict on the release, to one that may still serve."""
    if code not in LEFT_BEHIND:
        to = fall_back_to(situation)
    else:
        to = refuge(situation)
        because += f"; {_destination(situation, to)}"
    return GoBack(to=to, kind=EventKind.RETURNED, code=code, because=because)


def _destination(situation: Situation, to: Installed | None) -> str:
    mode = failure_mode(situation)
    if to is None:
        return f"nothing else on this device is approved and whole ({mode})"
    before = {each.digest for each in situation.state.predecessors}
    return f"back to {to.version}" if to.digest in before else f"to its fallback {to.version}"


def _named(situation: Situation, active: Installed, now: datetime) -> bool:
    """Whether a pin, or else the newest desired state, names this release at all; unknown counts
    as yes."""
    pin = situation.facts.pin_of(situation.model, now)
    if pin is not None:
        return pin.digest == active.digest
    assignment = situation.assignment
    if assignment is None:
        return True
    offered = None if assignment.offer is None else assignment.offer.release
    return any(
        ref is not None and ref.digest == active.digest for ref in (assignment.current, offered)
    )


def _kept(situation: Situation, release: Installed) -> bool:
    """Whether it may stay though a newer rollout is on its way; its approval is checked apart."""
    assignment = situation.assignment
    return assignment is not None and release.digest in {ref.digest for ref in assignment.kept}


def _because(first: str, refusals: tuple[Refusal, ...]) -> str:
    parts = [first] if first else []
    parts += [f"{r.candidate.version}: {r.check.because}" for r in refusals]
    return "; ".join(parts)
