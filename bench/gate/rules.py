"""Rules on one trace: what became of the wave, and after how many hours.

`ours` asks the same functions as the controller, at those instants alone at which their answer can
change, and remembers what they answered to the same counts. `by_decide` hands the same trace to
`rollout.decide` itself, event by event; the bench compares the two.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from random import Random

from bench.gate.traces import NEVER, Device, Trace

from mailboat_controller.rollout import halting, promoting
from mailboat_controller.rollout.decide import Facts, Rollout, decide
from mailboat_controller.rollout.evidence import Evidence
from mailboat_controller.rollout.members import Member, Outcome
from mailboat_controller.rollout.state import Phase
from mailboat_schemas.cohort import PPM, UPTO_ALL
from mailboat_schemas.desired import OfferWave
from mailboat_schemas.documents.rollout_gate import Gate, GateKind
from mailboat_schemas.gate_terms import StatisticalGate, terms_of
from mailboat_schemas.plan import Plan, PlanWave

OPENED = datetime(2026, 6, 1, tzinfo=UTC)
HOURS_MAX = 96.0
CLASS = "kiosk"


class Verdict(StrEnum):
    PROMOTED = "promoted"
    HALTED = "halted"
    HELD = "held"  # until the trace ends


@dataclass(frozen=True, slots=True)
class Came:
    verdict: Verdict
    hours: float = HOURS_MAX


Rule = Callable[[Sequence[Device]], Came]


def terms(*, control: bool = False) -> StatisticalGate:
    """The default figures."""
    found = terms_of(Gate(kind=GateKind.STATISTICAL, control=control))
    assert found is not None
    return found


TERMS = terms()
CONTROL_TERMS = terms(control=True)


@cache
def _halts(ok: int, failed: int, overdue: int) -> bool:
    evidence = Evidence(ok=ok, failed=failed, silent=overdue, overdue=overdue)
    return halting.by_evidence(TERMS, evidence, ()) is not None


@cache
def _allowed(asked: StatisticalGate, trials: int, look: int, control: tuple[int, int]) -> int:
    """The most failed and silent ones of so many that still pass; -1: not even none."""
    passes = promoting.bound_of(asked, control, trials, promoting.error_of(asked, look))
    if not passes(0, trials):
        return -1
    low, high = 0, trials
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if passes(middle, trials) else (low, middle)
    return low


def ours(devices: Sequence[Device]) -> Came:
    return _ends(devices, _promoted(devices, TERMS, 0, ()))


def with_control(devices: Sequence[Device], trace: Trace) -> Came:
    """With ten times as many devices of the same kind that do not get the release."""
    rng = Random(f"control/{devices[0].exposed_at}")
    size = promoting.CONTROL_TIMES * len(devices)
    lost = sum(rng.random() < trace.lost for _ in range(size))
    return _ends(
        devices, _promoted(devices, CONTROL_TERMS, size, [trace.exposed(rng) for _ in range(lost)])
    )


def _ends(devices: Sequence[Device], promoted: float) -> Came:
    halted = _halted(devices, sorted(d.told_at for d in devices if not d.failed))
    if halted <= min(promoted, HOURS_MAX):
        return Came(Verdict.HALTED, halted)
    if promoted <= HOURS_MAX:
        return Came(Verdict.PROMOTED, promoted)
    return Came(Verdict.HELD)


def _halted(devices: Sequence[Device], good: Sequence[float]) -> float:
    """Only a failure, or a device that becomes overdue, can halt."""
    limit = TERMS.verdict_seconds / 3600
    failures = sorted(d.told_at for d in devices if d.failed and d.told_at < NEVER)
    overdue = [
        (d.exposed_at + limit, d.told_at) for d in devices if d.told_at > d.exposed_at + limit
    ]
    for at in sorted([*failures, *(since for since, _ in overdue)]):
        if at > HOURS_MAX:
            break
        gone = sum(since <= at < told for since, told in overdue)
        if _halts(bisect_right(good, at), bisect_right(failures, at), gone):
            return at
    return NEVER


def _promoted(
    devices: Sequence[Device], asked_with: StatisticalGate, size: int, last_seen: Sequence[float]
) -> float:
    """When enough of those exposed by a look have told good news, at the earliest look.

    Args:
        size: of the control group.
        last_seen: when its devices that are lost were heard from last.
    """
    best = NEVER
    for look in range(asked_with.looks):
        at = (asked_with.soak_seconds + look * asked_with.look_seconds) / 3600
        silent = sum(seen < at - asked_with.verdict_seconds / 3600 for seen in last_seen)
        asked = [d for d in devices if d.exposed_at <= at]
        needed = len(asked) - _allowed(asked_with, len(asked), look, (size, silent))
        good = sorted(d.told_at for d in asked if not d.failed)
        if 0 < needed <= min(len(good), len(asked)):
            best = min(best, max(at, good[needed - 1]))
    return best


def by_decide(devices: Sequence[Device]) -> Came:
    """The same by the controller's own decision, asked at everything that happens."""
    plan = Plan(rollout="bench", waves=(PlanWave(count_ppm=PPM, cap_ppm=PPM, gate=TERMS),))
    rollout = Rollout(
        name="bench",
        model="m",
        version="1.0.0",
        digest="d" * 64,
        plan=plan,
        phase=Phase.RUNNING,
        opened={CLASS: (OfferWave(upto=UPTO_ALL, roster=len(devices)),)},
        wave_opened_at=OPENED,
    )
    limit = TERMS.verdict_seconds / 3600
    looks = [(TERMS.soak_seconds + k * TERMS.look_seconds) / 3600 for k in range(TERMS.looks)]
    instants = {
        at
        for d in devices
        for at in (d.exposed_at, d.told_at, d.exposed_at + limit)
        if at <= HOURS_MAX
    }
    for at in sorted(instants | set(looks)):
        # A millisecond later: instants are kept in those.
        now = OPENED + timedelta(hours=at, milliseconds=1)
        members = tuple(_member(n, d, at) for n, d in enumerate(devices, start=1))
        phase = decide(rollout, Facts(members={CLASS: members}, approved=True), now).phase
        if phase is Phase.HALTED:
            return Came(Verdict.HALTED, at)
        if phase is Phase.COMPLETED:
            return Came(Verdict.PROMOTED, at)
    return Came(Verdict.HELD)


def _member(number: int, device: Device, at: float) -> Member:
    outcome: Outcome | None = None
    if device.exposed_at <= at:
        outcome = Outcome.EXPOSED
    if device.told_at <= at:
        outcome = Outcome.FAILED if device.failed else Outcome.OK
    exposed = OPENED + timedelta(hours=device.exposed_at)
    return Member(
        device=f"dev-{number}",
        enrolment_number=number,
        outcome=outcome,
        exposed_at_ms=None if outcome is None else int(exposed.timestamp() * 1000),
    )


def hawkbit(success: float, error: float) -> Rule:
    """The next group starts when ``success`` of *all* of this one are finished; the rollout stops
    when more than ``error`` of all of them have failed. Silence is neither.

    Source: Eclipse hawkBit, docs/rollout-management.md and its threshold conditions.
    """

    def rule(devices: Sequence[Device]) -> Came:
        failed = good = 0
        for at, bad in _verdicts(devices):
            failed, good = failed + bad, good + (not bad)
            if failed > error * len(devices):
                return Came(Verdict.HALTED, at)
            if good >= success * len(devices):
                return Came(Verdict.PROMOTED, at)
        return Came(Verdict.HELD)

    return rule


def aws_jobs(threshold: float, executed_min: int, succeeded: float, timeout_hours: float) -> Rule:
    """A job stops when ``threshold`` of those that ended have failed or timed out, of at least
    ``executed_min``; its rate goes up when ``succeeded`` of the wave have succeeded.

    Source: AWS IoT API reference, AbortCriteria, TimeoutConfig and RateIncreaseCriteria.
    """

    def rule(devices: Sequence[Device]) -> Came:
        ends = []
        for device in devices:
            end = device.exposed_at + timeout_hours
            timed_out = device.told_at > end
            ends.append((min(device.told_at, end), device.failed or timed_out))
        bad_ones = good = 0
        for at, bad in sorted(ends):
            bad_ones, good = bad_ones + bad, good + (not bad)
            ended = bad_ones + good
            if ended >= executed_min and bad_ones >= threshold * ended:
                return Came(Verdict.HALTED, at)
            if good >= succeeded * len(devices):
                return Came(Verdict.PROMOTED, at)
        return Came(Verdict.HELD)

    return rule


def _verdicts(devices: Sequence[Device]) -> list[tuple[float, bool]]:
    return sorted((d.told_at, d.failed) for d in devices if d.told_at <= HOURS_MAX)


WITH_CONTROL = "mailboat, control: true"
RULES: dict[str, Rule] = {
    "mailboat": ours,
    "hawkBit 50/50 (its defaults)": hawkbit(0.5, 0.5),
    "hawkBit 95/5": hawkbit(0.95, 0.05),
    "AWS Jobs 20 % of 10, ALL, 24 h": aws_jobs(0.2, 10, 0.5, 24),
    "AWS Jobs 10 % of 50, ALL, 24 h": aws_jobs(0.1, 50, 0.9, 24),
}
