"""What an order to a rollout would do to devices, with numbers, before anybody gives it; and the
figures that its gate goes by. Pure: it asks the rules that decide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from mailboat_controller.rollout.decide import Decision, Facts, Rollout, decide, promote
from mailboat_controller.rollout.evidence import Evidence, exposed_of, tally
from mailboat_controller.rollout.halting import log_e, log_threshold
from mailboat_controller.rollout.members import Member, Outcome, admits
from mailboat_controller.rollout.state import ORDERS, TRANSITIONS, Phase, Trigger
from mailboat_schemas.desired import OfferWave
from mailboat_schemas.errors import Conflict

# A device that was not heard of for so long hears of an order when it is back.
UNHEARD_FOR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Effect:
    """``devices`` None: it is not about so many of them."""

    text: str
    devices: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """``refused`` says why the order would be refused as things stand; empty: it would be taken."""

    trigger: Trigger
    leads_to: Phase
    effects: tuple[Effect, ...]
    refused: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """Where the devices of a rollout are, over all of its classes; revoked ones are in none.

    ``unheard``: of those that have to do with the release, not heard of for `UNHEARD_FOR`.
    """

    let_in: int = 0
    not_begun: int = 0  # let in, and nothing heard of it
    under_way: int = 0  # exposed without a verdict
    ok: int = 0
    failed: int = 0
    returned: int = 0
    unheard: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GateFigures:
    """Of a statistical gate. ``failing`` and ``vanishing`` are ln E of the two e-processes; at
    ``threshold`` the rollout halts."""

    evidence: Evidence
    failing: float
    vanishing: float
    threshold: float


def flight(rollout: Rollout, members: Mapping[str, Sequence[Member]], now: datetime) -> Flight:
    since_ms = int((now - UNHEARD_FOR).timestamp() * 1000)
    counts = dict.fromkeys(Flight.__dataclass_fields__, 0)
    for name, devices in members.items():
        pairs = list(zip(rollout.opened.get(name, ()), rollout.plan.waves, strict=False))
        for member in devices:
            if member.revoked:
                continue
            inside = any(admits(wave, plan, rollout.digest, member) for wave, plan in pairs)
            place = _place(member, inside=inside)
            counts["let_in"] += inside
            if place:
                counts[place] += 1
                counts["unheard"] += (member.seen_at_ms or 0) < since_ms
    return Flight(**counts)


def _place(member: Member, *, inside: bool) -> str:
    match member.outcome:
        case Outcome.OK:
            return "ok"
        case Outcome.FAILED:
            return "failed"
        case Outcome.RETURNED:
            return "returned"
        case Outcome.EXPOSED:
            return "under_way"
        case Outcome.REFUSED:
            return ""
        case None:
            return "not_begun" if inside else ""


def gate_figures(
    rollout: Rollout, members: Mapping[str, Sequence[Member]], now: datetime
) -> GateFigures | None:
    """Over all waves and classes; None where the gate is not statistical."""
    terms = rollout.terms
    if terms is None:
        return None
    overdue_since = now - timedelta(seconds=terms.verdict_seconds)
    exposed = [
        each
        for name, devices in members.items()
        for each in exposed_of(
            rollout.plan, rollout.digest, name, rollout.opened.get(name, ()), devices
        )
    ]
    found = tally(exposed, overdue_since)
    return GateFigures(
        evidence=found,
        failing=log_e(found.ok, found.failed, terms.p0_ppm, terms.q_ppm),
        vanishing=log_e(found.ok, found.failed + found.overdue, terms.silence_ppm, terms.q_ppm),
        threshold=log_threshold(terms),
    )


def prospects(
    rollout: Rollout,
    facts: Facts,
    goes_back_to: Mapping[str, str | None],
    now: datetime,
) -> tuple[Prospect, ...]:
    """Every order that a person may give in this phase.

    Args:
        facts: with all members, whatever the phase.
        goes_back_to: by class the release that its devices would serve without this one.
    """
    devices = flight(rollout, facts.members, now)
    found = []
    for (phase, trigger), leads_to in TRANSITIONS.items():
        if phase is not rollout.phase or trigger not in ORDERS:
            continue
        effects, refused = _told(trigger, rollout, facts, devices, goes_back_to, now)
        found.append(Prospect(trigger=trigger, leads_to=leads_to, effects=effects, refused=refused))
    return tuple(found)


def _told(
    trigger: Trigger,
    rollout: Rollout,
    facts: Facts,
    devices: Flight,
    goes_back_to: Mapping[str, str | None],
    now: datetime,
) -> tuple[tuple[Effect, ...], str]:
    match trigger:
        case Trigger.START:
            # From then on it is the newest of its model.
            newest = replace(facts, superseded_by=None)
            started = decide(replace(rollout, phase=Phase.RUNNING), newest, now)
            return _opening(rollout, facts, started), ""
        case Trigger.PROMOTE:
            try:
                return _opening(rollout, facts, promote(rollout, facts, now)), ""
            except Conflict as conflict:
                return (), conflict.what
        case Trigger.PAUSE:
            return _paused(devices), ""
        case Trigger.RESUME:
            return _resumed(rollout, devices), ""
        case Trigger.ABORT | Trigger.UNDO:
            nowhere = [name for name, version in goes_back_to.items() if version is None]
            if trigger is Trigger.UNDO and nowhere:
                return (), f"{', '.join(nowhere)} has no earlier approved release to go back to"
            return _taken_back(devices, goes_back_to), ""
        case Trigger.FINISH | Trigger.HALT | Trigger.SUPERSEDE:
            return (), "no person orders this"


def _opening(rollout: Rollout, facts: Facts, decision: Decision) -> tuple[Effect, ...]:
    before = lets_in(rollout, rollout.opened, facts)
    if decision.phase is Phase.COMPLETED:
        everybody = sum(not m.revoked for members in facts.members.values() for m in members)
        return (
            Effect(f"{rollout.version} becomes current in every class of the rollout", everybody),
            Effect("that no wave let in may install it from then on", everybody - _sum(before)),
        )
    if decision.opens is None:
        return (Effect(f"no wave opens yet: {decision.because}"),)
    opened = {name: (*rollout.opened.get(name, ()), wave) for name, wave in decision.opens.items()}
    after = lets_in(rollout, opened, facts)
    number = f"wave {rollout.waves_open + 1} of {len(rollout.plan.waves)}"
    return (
        Effect(f"{number} opens and lets in so many more", _sum(after) - _sum(before)),
        *(Effect(f"of these in {name}", after[name] - before[name]) for name in sorted(after)),
        Effect("are let in then; an open wave is never closed again", _sum(after)),
    )


def _sum(counts: Mapping[str, int]) -> int:
    return sum(counts.values())


def lets_in(
    rollout: Rollout, opened: Mapping[str, Sequence[OfferWave]], facts: Facts
) -> dict[str, int]:
    """Devices that any of these waves lets in, by class."""
    found = {}
    for name, members in facts.members.items():
        pairs = list(zip(opened.get(name, ()), rollout.plan.waves, strict=False))
        found[name] = sum(
            not member.revoked
            and any(admits(wave, plan, rollout.digest, member) for wave, plan in pairs)
            for member in members
        )
    return found


def _paused(devices: Flight) -> tuple[Effect, ...]:
    return (
        Effect("nobody new is let in"),
        Effect("let in, not begun: may still begin", devices.not_begun),
        Effect("in mid-flight: go on to their verdict", devices.under_way),
        Effect("run it for good: keep it", devices.ok),
    )


def _resumed(rollout: Rollout, devices: Flight) -> tuple[Effect, ...]:
    number = max(1, rollout.waves_open)
    return (
        Effect(f"the gate of wave {number} judges again; its waiting time begins anew"),
        Effect("when it passes, the next wave opens by itself"),
        Effect("let in: nothing changes", devices.let_in),
    )


def _taken_back(devices: Flight, goes_back_to: Mapping[str, str | None]) -> tuple[Effect, ...]:
    places = (
        f"{name} goes back to {version}"
        if version
        else f"{name} has nothing approved to go back to: its failure mode says what answers"
        for name, version in sorted(goes_back_to.items())
    )
    return (
        Effect("in mid-flight: stop and go back", devices.under_way),
        Effect("run it for good: go back", devices.ok),
        Effect("let in, not begun: never begin", devices.not_begun),
        Effect("have left it already", devices.failed + devices.returned),
        Effect("of all these not heard of for an hour: follow when they are back", devices.unheard),
        *map(Effect, places),
        Effect("nothing reopens it: that takes a new approval under a new name"),
    )
