"""What happens to a rollout now: one step, as a value, with the reason people will read.

Bad news first, then the clock's limits, then good news. The caller asks again until nothing
changes, so one step is enough.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from mailboat_controller.rollout.gate import NAMES_SHOWN_MAX, judge_class
from mailboat_controller.rollout.members import Member, Outcome, admits, open_wave
from mailboat_controller.rollout.state import OFFERED, Phase, Trigger, move
from mailboat_schemas import cohort
from mailboat_schemas.desired import OfferWave
from mailboat_schemas.plan import Plan

Opened = Mapping[str, tuple[OfferWave, ...]]  # by class; as many waves in each


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

    @property
    def waves_open(self) -> int:
        return max((len(waves) for waves in self.opened.values()), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known, per class that the plan covers and the release has a variant for."""

    members: Mapping[str, tuple[Member, ...]]
    approved: bool  # by the newest approval role, with this digest
    superseded_by: str | None = None  # a newer rollout of model and class with an open wave


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The next phase and, when a wave opens, that wave for every class."""

    phase: Phase
    because: str
    opens: Mapping[str, OfferWave] | None = None


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


def _bad_news(rollout: Rollout, facts: Facts, now: datetime) -> Decision | None:
    failed = sorted(
        member.device
        for members in facts.members.values()
        for member in members
        if member.outcome is Outcome.FAILED
    )
    if failed:
        return _to(rollout, Trigger.HALT, _failure(failed, facts))
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
        return _open_next(rollout, facts, now, "")
    passed, because = _judge(rollout, facts)
    if not passed:
        return _stay(rollout, because)
    if rollout.waves_open == len(rollout.plan.waves):
        return _to(rollout, Trigger.FINISH, because)
    return _open_next(rollout, facts, now, because)


def _judge(rollout: Rollout, facts: Facts) -> tuple[bool, str]:
    """Whether the newest open wave has passed in every class, and why."""
    index = rollout.waves_open - 1
    approved = rollout.plan.waves[index]
    name = f"wave {index + 1} of {len(rollout.plan.waves)}"
    passed, reasons = True, []
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
        gate = judge_class(approved, inside, rollout.wave_opened_at)
        passed = passed and gate.passed
        reasons.append(f"{hardware_class}: {gate.because}")
    if not reasons:
        return False, f"{name} lets in no enrolled device"
    return passed, f"{name}: " + "; ".join(reasons)


def _open_next(rollout: Rollout, facts: Facts, now: datetime, passed_because: str) -> Decision:
    index = rollout.waves_open
    approved = rollout.plan.waves[index]
    name = f"wave {index + 1} of {len(rollout.plan.waves)}"
    if now.timestamp() < approved.earliest:
        return _stay(rollout, f"{name} is approved from a later time on; {passed_because}")
    if not any(facts.members.values()):
        return _stay(rollout, "no device of its classes is enrolled yet")
    everybody = {m.device for members in facts.members.values() for m in members}
    opens = {
        hardware_class: open_wave(
            approved, rollout.digest, members, everybody - {m.device for m in members}
        )
        for hardware_class, members in facts.members.items()
    }
    if not _lets_anybody_in(rollout, opens, facts):
        # An open wave never changes: opened now, it would keep out everybody who enrols later.
        return _stay(rollout, f"{name} would let in no enrolled device")
    because = f"{name} opened" + (f"; {passed_because}" if passed_because else "")
    return Decision(phase=rollout.phase, because=because, opens=opens)


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
    names = ", ".join(failed[:NAMES_SHOWN_MAX])
    if len(failed) > NAMES_SHOWN_MAX:
        names += f" and {len(failed) - NAMES_SHOWN_MAX} more"
    first = next(m for ms in facts.members.values() for m in ms if m.device == failed[0])
    return f"failed on {names}" + (f": {first.because}" if first.because else "")


def _to(rollout: Rollout, trigger: Trigger, because: str) -> Decision:
    return Decision(phase=move(rollout.name, rollout.phase, trigger), because=because)


def _stay(rollout: Rollout, because: str) -> Decision:
    return Decision(phase=rollout.phase, because=because)
