"""What a plan would do to the devices of one class: who is in which wave, who cannot, how long."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from mailboat_controller.explaining.checks import Explained, explain_release
from mailboat_controller.explaining.device_facts import KnownDevice
from mailboat_controller.explaining.explain import Evidence
from mailboat_controller.explaining.habits import expected_wait, wait_for
from mailboat_controller.rollout.binomial import smallest_share_excluded, trials_needed
from mailboat_controller.rollout.members import Member, admits, excluded, open_wave
from mailboat_controller.store import contacts, devices, overrides
from mailboat_schemas import cohort
from mailboat_schemas.eligibility import Candidate
from mailboat_schemas.plan import Plan, PlanWave
from mailboat_schemas.policy_rules import NO_RULES, Rules
from mailboat_schemas.switch_timing import OF_TIME, earliest

EXCLUDES_ERROR = 0.01  # what a wave can exclude is said with 99 % confidence
EXAMPLES_MAX = 3  # devices named beside a reason
ROWS_AT_ONCE = 1000
HABIT_DAYS = 30
HABITS_MAX = 5000  # devices of one class whose habits are looked up, the first of the waves
# Judged by the waves themselves, apart from the device.
_OF_THE_PLAN = frozenset({"within_plan", "in_cohort"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Devices that cannot have the release, by the first check that says no."""

    check: str
    because: str
    devices: int
    examples: tuple[str, ...]
    unknown: bool = False  # nothing says no, but not all is known


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveForecast:
    """``devices`` are new in this wave, ``able`` of them may run it as far as is known.

    excludes: the smallest share of failing devices that the wave can rule out with 99 %
        confidence, with all waves before it, if every device is good.
    duration: from its opening until its gate has the verdicts it asks for; None: too many devices
        have no habit to tell by.
    """

    number: int
    hardware_class: str
    devices: int
    able: int
    needed: int
    total: int  # able devices of this wave and those before
    excludes: float
    catches_ten_percent: float  # chance that 10 % broken shows at least once in these devices
    opens_at: datetime | None
    duration: timedelta | None
    waiting: int  # of those able: for a maintenance window or their cadence, as of now
    without_habit: int
    examples: tuple[str, ...]


class _Seen(NamedTuple):
    member: Member
    online: bool
    last_seen_at: datetime | None
    rules: Rules = NO_RULES
    switched_at: int | None = None  # as of `switch_timing.in_window`


@dataclass
class ClassForecast:
    evidence: Evidence
    name: str
    plan: Plan
    candidate: Candidate
    waves: list[WaveForecast] = field(default_factory=list)
    cannot: tuple[Reason, ...] = ()
    seen: dict[str, _Seen] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    able: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)  # of those able: not at this hour, or not yet

    def forecast(self) -> "ClassForecast":
        refused: dict[tuple[str, str, bool], list[str]] = {}
        # One at a time: what is known of a hundred thousand devices is hundreds of megabytes.
        for known in members_of(self.evidence, self.name):
            row = known.row
            self.seen[row.device] = _Seen(
                _member(known),
                row.online is True,
                row.last_seen_at,
                known.facts.rules,
                known.facts.switched_at.get(self.candidate.model),
            )
            reason = _reason(known, self.candidate, self.plan, self.evidence.now)
            if reason is None:
                self.able.add(known.row.device)
                if self._may_switch(known.row.device, self.evidence.now) != self.evidence.now:
                    self.waiting.add(known.row.device)
            else:
                refused.setdefault(reason, []).append(known.row.device)
                if reason[2]:
                    self.unknown.add(known.row.device)
        self.cannot = tuple(
            Reason(
                check=check,
                because=because,
                devices=len(names),
                examples=tuple(names[:EXAMPLES_MAX]),
                unknown=unknown,
            )
            for (check, because, unknown), names in sorted(
                refused.items(), key=lambda item: (-len(item[1]), item[0])
            )
        )
        self._open()
        return self

    def _open(self) -> None:
        able = self.able
        fleet = [each.member for each in self.seen.values()]
        inside: list[list[str]] = []
        for number, approved in enumerate(self.plan.waves, start=1):
            wave = open_wave(approved, self.candidate.digest, fleet)
            new = [
                m.device
                for m in fleet
                if m.device not in self.places and admits(wave, approved, self.candidate.digest, m)
            ]
            ranked = cohort.ranked(self.candidate.digest, new)
            self.places |= dict.fromkeys(ranked, number)
            inside.append(ranked)
        waits = self._waits([name for wave in inside for name in wave if name in able])
        total, opens = 0, self.evidence.now
        for number, (approved, new) in enumerate(
            zip(self.plan.waves, inside, strict=True), start=1
        ):
            those = [name for name in new if name in able]
            total += len(those)
            needed = min(_verdicts(approved, total - len(those), len(those)), len(those))
            if approved.earliest:
                opens = max(opens, datetime.fromtimestamp(approved.earliest, UTC))
            wait = wait_for(
                [self._switches(name, waits.get(name), opens) for name in those], needed
            )
            duration = None if wait is None else wait + self._verdict_takes(approved)
            self.waves.append(
                WaveForecast(
                    number=number,
                    hardware_class=self.name,
                    devices=len(new),
                    able=len(those),
                    needed=needed,
                    total=total,
                    excludes=smallest_share_excluded(total, EXCLUDES_ERROR),
                    catches_ten_percent=1 - 0.9**total,
                    opens_at=None,
                    duration=duration,
                    waiting=sum(name in self.waiting for name in those),
                    without_habit=sum(waits.get(name) is None for name in those),
                    examples=tuple(those[:EXAMPLES_MAX]),
                )
            )
            opens += duration or timedelta()

    def _may_switch(self, device: str, at: datetime) -> datetime | None:
        seen = self.seen[device]
        return earliest(seen.rules, self.plan, seen.switched_at, at)

    def _switches(self, device: str, wait: timedelta | None, opens: datetime) -> timedelta | None:
        """How long after its wave opens: when it is heard of, and its window is open then."""
        at = None if wait is None else self._may_switch(device, opens + wait)
        return None if at is None else at - opens

    def _verdict_takes(self, approved: PlanWave) -> timedelta:
        """The soak on the device, or of the gate if that is longer."""
        document = self.candidate.document
        variant = None if document is None else document.variant_for(self.name)
        seconds = 0.0 if variant is None else variant.health.soak.seconds
        gate = 0 if approved.gate is None else approved.gate.soak_seconds
        return timedelta(seconds=max(seconds, gate))

    def _waits(self, names: Sequence[str]) -> dict[str, timedelta | None]:
        now = self.evidence.now
        start = now - timedelta(days=HABIT_DAYS)
        some = names[:HABITS_MAX]
        heard: dict[str, list[datetime]] = {}
        for device, instant in contacts.since(self.evidence.tx, some, start):
            heard.setdefault(device, []).append(instant)
        return {
            name: expected_wait(
                [*heard.get(name, ()), *filter(None, (self.seen[name].last_seen_at,))],
                online=self.seen[name].online,
                now=now,
            )
            for name in some
        }


def _verdicts(approved: PlanWave, before: int, new: int) -> int:
    """Good verdicts the gate asks of the new devices at its first look, if nobody fails."""
    gate = approved.gate
    if gate is None:
        return approved.ok_min or new
    first_look = gate.beta_ppm / cohort.PPM / 2
    return max(1, trials_needed(0, gate.p1_ppm / cohort.PPM, first_look) - before)


def _reason(
    known: KnownDevice, candidate: Candidate, plan: Plan, now: datetime
) -> tuple[str, str, bool] | None:
    """Check, reason, and whether it is only that not all is known; None: it may run it."""
    never = excluded(_member(known), plan)
    if never is not None:
        return "in_cohort", never, False
    judged: Explained = explain_release(known, candidate, now)
    closed = _never_switches(known, candidate, now)
    passed_over = _OF_THE_PLAN if closed else _OF_THE_PLAN | OF_TIME
    checks = [check for check in judged.checks if check.name not in passed_over]
    for check in checks:
        if check.passed is False:
            return check.name, check.because, False
    unknown = next((check for check in checks if check.passed is None), None)
    return None if unknown is None else (unknown.name, unknown.because, True)


def _never_switches(known: KnownDevice, candidate: Candidate, now: datetime) -> bool:
    """Whether its windows stay closed for good: what only waits is able."""
    switched_at = known.facts.switched_at.get(candidate.model)
    return earliest(known.facts.rules, candidate.standing.plan, switched_at, now) is None


def members_of(evidence: Evidence, hardware_class: str) -> Iterator[KnownDevice]:
    """Every device of a class that is not revoked."""
    after = 0
    orders = overrides.every(evidence.tx)
    while rows := devices.list_page(
        evidence.tx, after=after, limit=ROWS_AT_ONCE, hardware_class=hardware_class
    ):
        for row in rows:
            if not row.revoked:
                yield evidence.device(row, orders.get(row.device, ()))
        after = rows[-1].enrolment_number


def _member(known: KnownDevice) -> Member:
    return Member(
        device=known.row.device,
        enrolment_number=known.row.enrolment_number,
        labels=known.facts.labels,
    )
