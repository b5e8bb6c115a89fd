"""What happens to a rollout now: one step, as a value, with the reason people will read.

Bad news first, then the clock's limits, then good news. The caller asks again until nothing
changes, so one step is enough.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType

from mailboat_controller.rollout import statistical
from mailboat_controller.rollout.exit_criteria import NOBODY, ShownBy, lacking, words
from mailboat_controller.rollout.gate import judge_class
from mailboat_controller.rollout.halting import hard_rule, named
from mailboat_controller.rollout.members import Member, Outcome, admits, open_wave
from mailboat_controller.rollout.promoting import Judgement
from mailboat_controller.rollout.state import OFFERED, Phase, Trigger, move
from mailboat_schemas import cohort
from mailboat_schemas.desired import OfferWave
from mailboat_schemas.errors import Conflict
from mailboat_schemas.gate_terms import StatisticalGate
from mailboat_schemas.plan import Plan

Opened = Mapping[str, tuple[OfferWave, ...]]  # by class; as many waves in each
SEEN_LATELY = timedelta(hours=24)  # from then on a device may be a canary


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A rollout as it is stored."""

    name: str
    model: str
    version: str
    digest: str
    plan: Plan
    phase: Phase
    opened: Opened = field(default_factory=lambda: MappingProxyType({}))
    because: str = ""
    wave_opened_at: datetime | None = None
    retry_epoch: int = 0
    resumed_at: datetime | None = None  # by a person, the last time

    @property
    def terms(self) -> StatisticalGate | None:
        """Of the newest open wave; None while its gate is not statistical."""
        return statistical.terms_in_force(self.plan, self.waves_open)

    @property
    def waves_open(self) -> int:
        return max((len(waves) for waves in self.opened.values()), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known, per class that the plan covers and the release has a variant for."""

    members: Mapping[str, tuple[Member, ...]]
    approved: bool  # by the newest approval role, with this digest
    superseded_by: str | None = None  # a newer rollout of model and class with an open wave
    # Good verdicts of devices that are not loaded: of a completed rollout only bad news is.
    ok_elsewhere: int = 0
    shown: ShownBy = NOBODY  # where the newest open wave asks for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The next phase and, when a wave opens, that wave for every class.

    ``evidence`` has the numbers it was decided on, for the audit log.
    """

    phase: Phase
    because: str
    opens: Mapping[str, OfferWave] | None = None
    evidence: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


def decide(rollout: Rollout, facts: Facts, now: datetime) -> Decision:
    match rollout.phase:
        case Phase.HALTED | Phase.ABORTED:
            return Decision(phase=rollout.phase, because=rollout.because)
        case Phase.PLANNED:
            return _planned(rollout, facts, now)
        case Phase.RUNNING | Phase.PAUSED | Phase.COMPLETED | Phase.SUPERSEDED:
            return _bad_news(rollout, facts, now) or _good_news(rollout, facts, now)


def _planned(rollout: Rollout, facts: Facts, now: datetime) -> Decision:
    if not facts.approved:
        return _to(rollout, Trigger.ABORT, "its approval was withdrawn before it started")
    if _expired(rollout.plan, now):
        return _to(rollout, Trigger.ABORT, "its plan expired before it started")
    if rollout.plan.manual_start:
        return _stay(rollout, "waits to be started: its plan says so")
    return _to(rollout, Trigger.START, "approved")


def promote(rollout: Rollout, facts: Facts, now: datetime) -> Decision:
    """A person takes the place of the gate: the next wave opens, or the last one completes.

    The plan and bad news bind a person too.

    Raises:
        Conflict: there is nothing to promote, or not yet.
    """
    move(rollout.name, rollout.phase, Trigger.PROMOTE)
    if rollout.waves_open == 0:
        raise Conflict(
            f"No wave of rollout {rollout.name} is open: {rollout.because}.",
            next_step="wait for its first wave; `mailboat rollout status` says what holds it.",
        )
    bad = _bad_news(rollout, facts, now)
    if bad is not None:
        raise Conflict(
            f"Rollout {rollout.name} cannot be promoted: {bad.because}.",
            next_step="approve a release that holds.",
        )
    judgement = _judge(rollout, facts, now)
    passed = "the gate had passed" if judgement.passed else f"the gate held: {judgement.because}"
    if rollout.waves_open == len(rollout.plan.waves):
        return Decision(phase=Phase.COMPLETED, because=passed, evidence=judgement.evidence)
    running = replace(rollout, phase=Phase.RUNNING)
    opening = _open_next(running, facts, now, Judgement(True, passed, judgement.evidence))
    if opening.opens is None:
        raise Conflict(
            f"Rollout {rollout.name} cannot be promoted now: {opening.because}.",
            next_step="wait for it, or have another plan approved.",
        )
    return opening


def _bad_news(rollout: Rollout, facts: Facts, now: datetime) -> Decision | None:
    halt = _against(rollout, facts, now)
    if halt is not None:
        return halt
    if not facts.approved:
        return _to(rollout, Trigger.HALT, "its approval was withdrawn")
    if rollout.phase not in OFFERED:
        return None
    if facts.superseded_by is not None:
        because = f"superseded by rollout {facts.superseded_by}"
        return _to(rollout, Trigger.SUPERSEDE, because)
    if _exceeds(rollout.plan, rollout.opened):
        return _to(rollout, Trigger.HALT, "the approver narrowed the plan below what is open")
    if _expired(rollout.plan, now):
        return _to(rollout, Trigger.HALT, "its plan expired before the last wave passed")
    return None


def _good_news(rollout: Rollout, facts: Facts, now: datetime) -> Decision:
    if rollout.phase is not Phase.RUNNING:
        return Decision(phase=rollout.phase, because=rollout.because)
    if rollout.waves_open == 0:
        return _open_next(rollout, facts, now, None)
    gate = _judge(rollout, facts, now)
    if not gate.passed:
        if _waited_too_long(rollout, now):
            because = f"waited as long as its plan allows, for a person now; {gate.because}"
            return _to(rollout, Trigger.PAUSE, because, gate.evidence)
        return _stay(rollout, gate.because)
    if rollout.waves_open == len(rollout.plan.waves):
        return _to(rollout, Trigger.FINISH, gate.because, gate.evidence)
    return _open_next(rollout, facts, now, gate)


def _against(rollout: Rollout, facts: Facts, now: datetime) -> Decision | None:
    """Whether what devices told so far halts the release."""
    everybody = [member for members in facts.members.values() for member in members]
    halt = hard_rule(everybody)
    terms = rollout.terms
    if halt is None and terms is not None:
        halt = statistical.bad_news(
            terms,
            rollout.plan,
            rollout.digest,
            rollout.opened,
            facts.members,
            facts.ok_elsewhere,
            rollout.wave_opened_at,
            now,
        )
    if halt is not None:
        return _to(rollout, Trigger.HALT, halt.because, halt.evidence)
    failed = sorted(m.device for m in everybody if m.outcome is Outcome.FAILED)
    if failed and terms is None:
        evidence = {"rule": "every", "failed": len(failed)}
        return _to(rollout, Trigger.HALT, _failure(failed, facts), evidence)
    return None


def _waited_too_long(rollout: Rollout, now: datetime) -> bool:
    limit = rollout.plan.waves[rollout.waves_open - 1].wait_max
    since = [at for at in (rollout.wave_opened_at, rollout.resumed_at) if at is not None]
    return limit > 0 and bool(since) and now >= max(since) + timedelta(seconds=limit)


def _judge(rollout: Rollout, facts: Facts, now: datetime) -> Judgement:
    """Whether the newest open wave has passed in every class, and why."""
    index = rollout.waves_open - 1
    approved = rollout.plan.waves[index]
    name = f"wave {index + 1} of {len(rollout.plan.waves)}"
    passed, reasons, lacks = True, [], []
    for hardware_class, members in sorted(facts.members.items()):
        waves = rollout.opened.get(hardware_class, ())
        if index >= len(waves):
            # The class joined the plan after this wave had opened; the next wave is its first.
            # Without a next one it would become current there on no verdict at all.
            if members and index + 1 == len(rollout.plan.waves):
                passed = False
                reasons.append(f"{hardware_class}: joined the plan after its last wave had opened")
            continue
        inside = [
            m
            for m in members
            if not m.revoked and admits(waves[index], approved, rollout.digest, m)
        ]
        if not inside:
            continue
        lacks += lacking(approved, hardware_class, inside, facts.shown)
        if rollout.terms is not None:
            reasons.append(f"{hardware_class}: {len(inside)} let in")
            continue
        gate = judge_class(approved, inside, rollout.wave_opened_at)
        passed = passed and gate.passed
        reasons.append(f"{hardware_class}: {gate.because}")
    if not reasons:
        return Judgement(False, f"{name} lets in no enrolled device")
    if rollout.terms is None or not passed:
        found = Judgement(passed, f"{name}: " + "; ".join(reasons))
    else:
        found = _judge_evidence(rollout, rollout.terms, facts, now)
    if found.passed and lacks:
        return replace(found, passed=False, because=f"{found.because}; still {', '.join(lacks)}")
    return replace(found, because=found.because + words(approved)) if found.passed else found


def _judge_evidence(
    rollout: Rollout, terms: StatisticalGate, facts: Facts, now: datetime
) -> Judgement:
    found = statistical.judge_wave(
        terms,
        rollout.plan,
        rollout.digest,
        rollout.opened,
        facts.members,
        rollout.wave_opened_at or now,
        now,
    )
    name = f"wave {rollout.waves_open} of {len(rollout.plan.waves)}"
    return replace(found, because=f"{name}: {found.because}")


def _open_next(rollout: Rollout, facts: Facts, now: datetime, passed: Judgement | None) -> Decision:
    passed_because = "" if passed is None else passed.because
    index = rollout.waves_open
    approved = rollout.plan.waves[index]
    name = f"wave {index + 1} of {len(rollout.plan.waves)}"
    if now.timestamp() < approved.earliest:
        return _stay(rollout, f"{name} is approved from a later time on; {passed_because}")
    if not facts.members:
        return _stay(rollout, "its release has no variant for any class of its plan")
    if not any(facts.members.values()):
        return _stay(rollout, "no device of its classes is enrolled yet")
    everybody = {m.device for members in facts.members.values() for m in members}
    opens = {
        hardware_class: open_wave(
            approved,
            rollout.digest,
            members,
            everybody - {m.device for m in members},
            seen_since_ms=int((now - SEEN_LATELY).timestamp() * 1000),
            earlier=tuple(
                zip(rollout.opened.get(hardware_class, ()), rollout.plan.waves, strict=False)
            ),
        )
        for hardware_class, members in facts.members.items()
    }
    if not _lets_anybody_in(rollout, opens, facts):
        # An open wave never changes: opened now, it would keep out everybody who enrols later.
        return _stay(rollout, f"{name} would let in no enrolled device")
    because = f"{name} opened" + (f"; {passed_because}" if passed_because else "")
    evidence = {} if passed is None else passed.evidence
    return Decision(phase=rollout.phase, because=because, opens=opens, evidence=evidence)


def _lets_anybody_in(rollout: Rollout, opens: Mapping[str, OfferWave], facts: Facts) -> bool:
    approved = rollout.plan.waves[rollout.waves_open]
    return any(
        not member.revoked and admits(opens[hardware_class], approved, rollout.digest, member)
        for hardware_class, members in facts.members.items()
        for member in members
    )


def _expired(plan: Plan, now: datetime) -> bool:
    return plan.expires > 0 and now.timestamp() >= plan.expires


def _exceeds(plan: Plan, opened: Opened) -> bool:
    """What devices would refuse: see mailboat_schemas.eligibility, check ``within_plan``."""
    for waves in opened.values():
        if len(waves) > len(plan.waves):
            return True
        for wave, approved in zip(waves, plan.waves, strict=False):
            if wave.upto > cohort.upto_of_ppm(approved.cap_ppm):
                return True
            if not set(wave.pilots) <= set(approved.pilots):
                return True
    return False


def _failure(failed: list[str], facts: Facts) -> str:
    first = next(m for ms in facts.members.values() for m in ms if m.device == failed[0])
    return f"failed on {named(failed)}" + (f": {first.because}" if first.because else "")


def _to(
    rollout: Rollout,
    trigger: Trigger,
    because: str,
    evidence: Mapping[str, object] = MappingProxyType({}),
) -> Decision:
    phase = move(rollout.name, rollout.phase, trigger)
    return Decision(phase=phase, because=because, evidence=evidence)


def _stay(rollout: Rollout, because: str) -> Decision:
    return Decision(phase=rollout.phase, because=because)
