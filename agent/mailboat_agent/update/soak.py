"""Does a release hold on live traffic? Silence is neither health nor failure: it waits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mailboat_schemas.documents.health import Soak
from mailboat_schemas.documents.live_gates import CounterGate, DriftGate
from mailboat_schemas.live_figures import CounterSum, Shift, ValueSum

RESTARTS_FAIL = 2  # one restart may be the machine's doing; two in one soak are the release's
SHIFTS_TOLD_MAX = 8  # in the evidence, the furthest first


class Verdict(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    WAIT = "wait"


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakStats:
    """What happened since the soak began. ``p95_ms`` is None while nothing was measured.

    ``counters`` and ``values`` are what the application said of this release's answers, ``shifts``
    how far sampled requests are from its reference.
    """

    requests_ok: int
    requests_error: int
    p95_ms: float | None
    worker_restarts: int
    ready: bool = True  # whether its worker stands
    errors_in_a_row: int = 0  # the newest requests
    counters: Mapping[str, CounterSum] = field(default_factory=dict)
    values: Mapping[str, ValueSum] = field(default_factory=dict)
    shifts: tuple[Shift, ...] = ()

    @property
    def requests(self) -> int:
        return self.requests_ok + self.requests_error

    def evidence(self) -> dict[str, Any]:
        """As it stands in the event, the most telling first: an event is bounded."""
        found: dict[str, Any] = {
            "requests_ok": self.requests_ok,
            "requests_error": self.requests_error,
            "latency_p95_ms": self.p95_ms,
            "worker_restarts": self.worker_restarts,
        }
        if self.counters or self.values:
            posted = {**self.counters, **self.values}
            found["posted"] = {name: posted[name].model_dump() for name in sorted(posted)}
        if self.shifts:
            found["shifts"] = [each.model_dump() for each in self.shifts[:SHIFTS_TOLD_MAX]]
        return found


@dataclass(frozen=True, slots=True)
class Judgement:
    """``code`` is a stable word, empty unless it fails."""

    verdict: Verdict
    because: str
    code: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Breach:
    """A gate on live traffic that closed."""

    code: str
    because: str

    def judged(self, evidence: Mapping[str, Any]) -> Judgement:
        return Judgement(Verdict.FAILED, self.because, self.code, evidence)


def judge_soak(soak: Soak, stats: SoakStats, elapsed_seconds: float) -> Judgement:
    """Pass, fail, or wait and say for what. Exactly at a bound holds."""
    breach = _breach(soak, stats, elapsed_seconds) or _posted_breach(soak, stats)
    breach = breach or _drift_breach(soak.drift, stats.shifts)
    if breach is not None:
        return breach.judged(stats.evidence())
    if elapsed_seconds < soak.seconds:
        return Judgement(
            Verdict.WAIT, f"soaking for {soak.seconds:g} s, {elapsed_seconds:.0f} s have passed"
        )
    if not stats.ready:
        return Judgement(Verdict.WAIT, "its worker process is being started again")
    if stats.requests < soak.requests_min:
        return Judgement(
            Verdict.WAIT, f"{stats.requests} of at least {soak.requests_min} requests were served"
        )
    for name, gate in sorted(soak.counters.items()):
        posted, _ = _posted(name, gate, stats)
        if gate.required and posted < gate.total_min:
            return Judgement(Verdict.WAIT, f"{posted} of at least {gate.total_min} {name} posted")
    because = (
        f"{stats.requests_ok} of {stats.requests} requests were answered in "
        f"{elapsed_seconds:.0f} s of soak"
    )
    evidence, unjudged = stats.evidence(), _not_judged(soak, stats)
    if unjudged:
        because += f"; too little was seen to judge {', '.join(unjudged)}"
        evidence["not_judged"] = list(unjudged)
    return Judgement(Verdict.PASSED, because, evidence=evidence)


def _not_judged(soak: Soak, stats: SoakStats) -> tuple[str, ...]:
    """The gates that the document asks for and nothing came through: said, never silent."""
    names = [
        name
        for name, gate in sorted(soak.counters.items())
        if _posted(name, gate, stats)[0] < gate.total_min
    ]
    gate = soak.drift
    if gate is not None:
        seen = {each.side for each in stats.shifts if each.requests >= gate.requests_min}
        asked = {"input": gate.inputs_max, "output": gate.outputs_max}
        names += [
            f"drift of {s}s" for s, most in asked.items() if most is not None and s not in seen
        ]
    return tuple(names)


def _breach(soak: Soak, stats: SoakStats, elapsed_seconds: float) -> Breach | None:
    """What the device sees by itself."""
    if stats.worker_restarts >= RESTARTS_FAIL:
        return Breach("crashed", f"its worker process died {stats.worker_restarts} times")
    if stats.errors_in_a_row >= soak.breach_requests_min and soak.error_rate_max < 1:
        # After a million good answers the rate would take ten thousand errors to say so.
        return Breach("error_rate", f"the newest {stats.errors_in_a_row} requests failed")
    enough = stats.requests >= soak.breach_requests_min or elapsed_seconds >= soak.seconds
    if stats.requests == 0 or not enough:
        return None
    error_rate = stats.requests_error / stats.requests
    if error_rate > soak.error_rate_max:
        because = (
            f"{stats.requests_error} of {stats.requests} requests failed "
            f"({error_rate:.1%}, allowed {soak.error_rate_max:.1%})"
        )
        return Breach("error_rate", because)
    limit_ms = soak.latency_p95_ms_max
    if limit_ms is not None and stats.p95_ms is not None and stats.p95_ms > limit_ms:
        because = f"p95 latency is {stats.p95_ms:.1f} ms, allowed {limit_ms:g} ms"
        return Breach("latency_exceeded", because)
    return None


def _posted_breach(soak: Soak, stats: SoakStats) -> Breach | None:
    for name, gate in sorted(soak.counters.items()):
        posted, figure = _posted(name, gate, stats)
        if posted < gate.total_min or figure is None:
            continue
        least = gate.good_rate_min if gate.good_rate_min is not None else gate.mean_min
        what = f"{name} is {figure:.4g} over {posted} posted"
        if least is not None and figure < least:
            return Breach("counter_breach", f"{what}, at least {least:g} is asked for")
        if gate.mean_max is not None and figure > gate.mean_max:
            return Breach("counter_breach", f"{what}, at most {gate.mean_max:g} is allowed")
    return None


def _posted(name: str, gate: CounterGate, stats: SoakStats) -> tuple[int, float | None]:
    """How many were posted, and the figure that is bounded."""
    if gate.good_rate_min is not None:
        counter = stats.counters.get(name, CounterSum())
        return counter.total, counter.rate
    value = stats.values.get(name, ValueSum())
    return value.count, value.mean


def _drift_breach(gate: DriftGate | None, shifts: tuple[Shift, ...]) -> Breach | None:
    if gate is None:
        return None
    for each in shifts:
        allowed = gate.inputs_max if each.side == "input" else gate.outputs_max
        if allowed is None or each.requests < gate.requests_min or each.shift <= allowed:
            continue
        because = (
            f"{each.side} {each.tensor!r} has shifted by {each.shift:.3g} from the release's "
            f"reference over {each.requests} sampled requests, {allowed:g} is allowed"
        )
        return Breach("drift", because)
    return None
