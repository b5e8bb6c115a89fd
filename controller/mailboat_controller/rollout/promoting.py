"""Has a wave with a statistical gate passed? Silence counts against it; time alone never helps it.

A look is an instant written in the plan: it fixes *whom* one asks about, the devices exposed by
then, and how much of the error beta may be spent on them. How often their answers are read after it
costs nothing: failed and silent devices of a fixed set can only become fewer than they are counted,
so a promotion today would also be one if everybody had answered.

Source: DESIGN section 8; Clopper and Pearson for the bound.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mailboat_controller.rollout import binomial
from mailboat_controller.rollout.evidence import Evidence
from mailboat_controller.rollout.members import Member, Outcome
from mailboat_schemas.cohort import PPM
from mailboat_schemas.gate_terms import StatisticalGate

# Fewer devices without the release say too little of what is usual.
CONTROL_TIMES = 10
# Where less is silent anyway, allowing for it would spend error on nothing.
USUAL_SILENCE = 0.02
# How the error of a look is shared between the two bounds of the form with a control group.
RELEASE_ERROR, CONTROL_ERROR = 0.9, 0.1
MORE_MAX = 10**7  # verdicts that are worth naming as missing


@dataclass(frozen=True, slots=True)
class Judgement:
    """``passed`` is True only on verdicts; ``because`` names what is missing otherwise."""

    passed: bool
    because: str
    evidence: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """One set of devices at one look, and one question: do they exclude this share of failures?"""

    what: str  # "failed" or "slow"
    against: int
    silent: int  # of those, the ones that may still turn out good
    trials: int
    passes: Callable[[int, int], bool]  # (against, trials)


def judge(
    terms: StatisticalGate,
    exposed: Sequence[Member],
    control: Sequence[Member],
    opened_at: datetime,
    now: datetime,
) -> Judgement:
    """
    Args:
        exposed: over all waves.
        control: devices of the same classes that no wave lets in yet.
        opened_at: of the newest wave, whose looks these are.
    """
    looks = look_times(terms, opened_at)
    due = [at for at in looks if at <= now]
    if not due:
        return Judgement(False, f"soaks until {_at(looks[0])}", {"look": 0})
    if not exposed:
        return Judgement(False, "no device is exposed yet", {"look": len(due)})
    held: list[Judgement] = []
    for index, (at, evidence, slow) in enumerate(_sets(exposed, due)):
        error = error_of(terms, index)
        gone = silent_control(terms, control, opened_at, at)
        asked = list(_questions(terms, evidence, slow, gone, error))
        numbers = {**_numbers(evidence, terms, error), "look": index + 1, "control": gone}
        missing = [words for words in map(_missing, asked) if words is not None]
        if not missing:
            share = binomial.upper_bound(evidence.against, evidence.exposed, error)
            because = (
                f"{evidence.ok} of {evidence.exposed} exposed are good, {evidence.failed} failed, "
                f"{evidence.silent} silent: at most {100 * share:.2g} % fail"
            )
            return Judgement(True, because, numbers)
        held.append(
            Judgement(
                False,
                f"look {index + 1} of {len(looks)}: {evidence.ok} of {evidence.exposed} exposed "
                f"are good, {evidence.failed} failed, {evidence.silent} silent; needs "
                + " and ".join(missing)
                + _next(looks, now),
                numbers,
            )
        )
    return held[-1]


def look_times(terms: StatisticalGate, opened_at: datetime) -> list[datetime]:
    first = opened_at + timedelta(seconds=terms.soak_seconds)
    return [first + timedelta(seconds=terms.look_seconds * k) for k in range(terms.looks)]


def error_of(terms: StatisticalGate, look: int) -> float:
    """beta/2, beta/4, …, the last one repeated: together beta. ``look`` counts from 0."""
    halvings = min(look + 1, terms.looks - 1)
    return float(terms.beta_ppm / PPM / 2**halvings)


def silent_control(
    terms: StatisticalGate, control: Sequence[Member], opened_at: datetime, look: datetime
) -> tuple[int, int]:
    """(devices, silent ones of them) that compare with exposed devices at a look.

    Like these they were heard from after the wave opened. Silent is who has not been since, for
    as long as a verdict takes; who comes back is not, so that it only ever becomes fewer.
    """
    if not terms.control:
        return 0, 0
    since_ms = opened_at.timestamp() * 1000
    until_ms = (look.timestamp() - terms.verdict_seconds) * 1000
    seen = [m.seen_at_ms for m in control if m.seen_at_ms is not None and m.seen_at_ms >= since_ms]
    return len(seen), sum(at < until_ms for at in seen)


def usual_silence_ppm(terms: StatisticalGate, control: tuple[int, int], trials: int) -> int:
    """At most so many go silent without the release, but for a chance of alpha; 0 where a control
    group is too small to say so, or shows no more than `USUAL_SILENCE`.

    Args:
        control, trials: as in `bound_of`.
    """
    devices, silent = control
    error = terms.alpha_ppm / PPM
    if devices < CONTROL_TIMES * max(1, trials):
        return 0
    if binomial.lower_bound(silent, devices, error) <= USUAL_SILENCE:
        return 0
    return math.ceil(PPM * binomial.upper_bound(silent, devices, error))


def _questions(
    terms: StatisticalGate,
    evidence: Evidence,
    slow: tuple[int, int],
    control: tuple[int, int],
    error: float,
) -> list[Asked]:
    """One for the verdicts and one for each metric; they share the error of the look."""
    metrics = [] if terms.latency_ratio_ppm == 0 else [slow]
    error /= 1 + len(metrics)
    passes = bound_of(terms, control, evidence.exposed, error)
    found = [Asked("", evidence.against, evidence.silent, evidence.exposed, passes)]
    plain = bound_of(terms, (0, 0), evidence.exposed, error)
    for bad, unmeasured in metrics:
        found.append(Asked("latency: ", bad + unmeasured, unmeasured, evidence.exposed, plain))
    return found


def bound_of(
    terms: StatisticalGate, control: tuple[int, int], trials: int, error: float
) -> Callable[[int, int], bool]:
    """The question whether so many of so many (against, trials) are few enough.

    Args:
        control: (devices, silent ones of them).
        trials: how many devices the control group has to outnumber.
    """
    share = terms.p1_ppm / PPM
    devices, silent = control
    if devices >= CONTROL_TIMES * trials:
        usual = binomial.lower_bound(silent, devices, CONTROL_ERROR * error)
        if usual > USUAL_SILENCE:
            # Silence and failures beyond what is usual, against the distance of p1 from p0. A
            # release that breaks p1 shows on those alone that would not have been silent anyway.
            shown = (1 - usual) * share
            most = usual + min((terms.p1_ppm - terms.p0_ppm) / PPM, shown)
            return lambda against, n: binomial.excludes(against, n, most, RELEASE_ERROR * error)
    return lambda against, n: binomial.excludes(against, n, share, error)


def _sets(
    exposed: Sequence[Member], due: Sequence[datetime]
) -> list[tuple[datetime, Evidence, tuple[int, int]]]:
    """Who was exposed by each look: verdicts, and (slow, unmeasured)."""
    instants = [at.timestamp() * 1000 for at in due]
    rows = [[0] * 5 for _ in due]
    for member in exposed:
        index = bisect_left(instants, member.exposed_at_ms or 0)
        if index == len(due):
            continue  # after the newest look
        row = rows[index]
        row[0] += member.outcome is Outcome.OK
        row[1] += member.outcome is Outcome.FAILED
        row[2] += member.outcome not in {Outcome.OK, Outcome.FAILED}
        row[3] += member.slow is True
        row[4] += member.slow is None
    found = []
    ok = failed = silent = slow = unmeasured = 0
    for at, row in zip(due, rows, strict=True):
        ok, failed, silent = ok + row[0], failed + row[1], silent + row[2]
        slow, unmeasured = slow + row[3], unmeasured + row[4]
        found.append((at, Evidence(ok=ok, failed=failed, silent=silent), (slow, unmeasured)))
    return found


def _missing(asked: Asked) -> str | None:
    """What would make it pass, in words; None if it does."""
    against, trials = asked.against, asked.trials
    if asked.passes(against, trials):
        return None
    ways = []
    more = _least(lambda add: asked.passes(against, trials + add), MORE_MAX)
    if more is not None:
        ways.append(f"{more} more good verdict{'s' if more > 1 else ''}")
    fewer = _least(lambda less: asked.passes(against - less, trials), asked.silent)
    if fewer is not None:
        ways.append(f"{fewer} fewer silent")
    return asked.what + (" or ".join(ways) or "a person: too many failed to pass on any evidence")


def _least(enough: Callable[[int], bool], most: int) -> int | None:
    """The smallest number from 1 to ``most`` that is enough; None if not even that one is."""
    if most < 1 or not enough(most):
        return None
    low, high = 0, 1
    while not enough(high):
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _next(looks: Sequence[datetime], now: datetime) -> str:
    following = next((at for at in looks if at > now), None)
    if following is None:
        return "; no look is left for further devices"
    return f"; next look {_at(following)}"


def _numbers(evidence: Evidence, terms: StatisticalGate, error: float) -> dict[str, object]:
    numbers: dict[str, object] = dict(evidence.to_json())
    numbers["error"] = round(error, 9)
    numbers["p1_ppm"] = terms.p1_ppm
    return numbers


def _at(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%SZ}"
