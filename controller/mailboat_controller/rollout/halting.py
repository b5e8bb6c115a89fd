"""Must a statistical rollout stop? Asked at any time and as often as you like.

Two e-processes: each multiplies up how much better a bad release explains the verdicts than a
healthy one does. Of a healthy release it is at 1 on average, however long one watches, so it ever
reaches 1/alpha with a chance of at most alpha. Kept as logarithms.

Source: Ville's inequality; DESIGN section 8.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mailboat_controller.rollout.evidence import Evidence
from mailboat_controller.rollout.members import Member, Outcome
from mailboat_schemas.cohort import PPM
from mailboat_schemas.gate_terms import StatisticalGate

# Bytes other than those that were signed: nobody waits for a second device to say so.
INTEGRITY_CODES = frozenset({"E-DIGEST", "E-SIGNATURE"})
# Restarts cut every attempt short. One device may have a bad power supply.
REBOOT_CODES = frozenset({"tries_exhausted"})
REBOOTING_MAX = 1
NAMES_SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class Halt:
    because: str
    evidence: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """Evidence that is judged by itself: a class, a wave, or devices that became slow."""

    name: str
    evidence: Evidence


def hard_rule(members: Sequence[Member]) -> Halt | None:
    """What needs no counting."""
    told = [m for m in members if m.outcome in {Outcome.REFUSED, Outcome.FAILED}]
    violated = sorted(m.device for m in told if m.code in INTEGRITY_CODES)
    if violated:
        return Halt(
            f"integrity violation on {named(violated)}", {"rule": "integrity", "devices": violated}
        )
    looping = sorted(m.device for m in told if m.code in REBOOT_CODES)
    if len(looping) > REBOOTING_MAX:
        return Halt(
            f"{len(looping)} devices restart in a loop: {named(looping)}",
            {"rule": "reboot_loop", "devices": looping},
        )
    return None


def by_evidence(
    terms: StatisticalGate, whole: Evidence, parts: Sequence[Part], usual_ppm: int = 0
) -> Halt | None:
    """
    Args:
        parts: judged beside the whole, which a large good part would drown out. All of them
            together have as much error to spend as the whole.
        usual_ppm: at most so many vanish without the release, as a control group shows.
    """
    halt = _judge(terms, Part("", whole), 1, usual_ppm)
    for part in parts:
        halt = halt or _judge(terms, part, len(parts), usual_ppm)
    return halt


def log_e(good: int, bad: int, healthy_ppm: int, broken_ppm: int) -> float:
    """ln E: how much better ``broken_ppm`` explains these verdicts than ``healthy_ppm``."""
    return good * math.log((PPM - broken_ppm) / (PPM - healthy_ppm)) + bad * math.log(
        broken_ppm / healthy_ppm
    )


def log_threshold(terms: StatisticalGate, parts: int = 1) -> float:
    return math.log(PPM * parts / terms.alpha_ppm)


def named(devices: Sequence[str]) -> str:
    names = ", ".join(devices[:NAMES_SHOWN_MAX])
    more = len(devices) - NAMES_SHOWN_MAX
    return names + (f" and {more} more" if more > 0 else "")


def _judge(terms: StatisticalGate, part: Part, parts: int, usual_ppm: int) -> Halt | None:
    evidence, needed = part.evidence, log_threshold(terms, parts)
    where = f" in {part.name}" if part.name else ""
    failing = log_e(evidence.ok, evidence.failed, terms.p0_ppm, terms.q_ppm)
    gone = evidence.failed + evidence.overdue
    tolerated_ppm = max(terms.silence_ppm, usual_ppm)
    # Where as many vanish anyway as a broken release takes off the air, silence says nothing.
    vanishing = (
        log_e(evidence.ok, gone, tolerated_ppm, terms.q_ppm) if tolerated_ppm < terms.q_ppm else 0.0
    )
    numbers = {
        **evidence.to_json(),
        "part": part.name,
        "silence_ppm": tolerated_ppm,
        "log_e1": round(failing, 6),
        "log_e2": round(vanishing, 6),
        "log_threshold": round(needed, 6),
    }
    if failing >= needed:
        return Halt(
            f"{evidence.failed} of {evidence.ok + evidence.failed} with a verdict failed{where}",
            {"rule": "failing", **numbers},
        )
    if vanishing >= needed:
        return Halt(
            f"{evidence.overdue} overdue and {evidence.failed} failed beside "
            f"{evidence.ok} good{where}",
            {"rule": "vanishing", **numbers},
        )
    return None
