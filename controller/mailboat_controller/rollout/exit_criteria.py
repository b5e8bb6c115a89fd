"""What a ring has to show besides good verdicts before the next wave opens: see docs/gate.md.

Asked of each class, of the devices that the newest wave lets in. A class that has fewer devices
shows it with all of them. Silence holds the wave, as everywhere.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mailboat_controller.rollout.members import Member
from mailboat_schemas.plan import PlanWave


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownBy:
    """Names of devices: restarted on this release at any time, drilled since the rollout began."""

    restarted: frozenset[str] = frozenset()
    drilled: frozenset[str] = frozenset()


NOBODY = ShownBy()


def asks(wave: PlanWave) -> bool:
    return bool(wave.restarts_min or wave.drills_min)


def lacking(
    wave: PlanWave, hardware_class: str, inside: Sequence[Member], shown: ShownBy
) -> list[str]:
    """What a class still lacks, in words; empty if nothing."""
    found = []
    for needed, names, what in (
        (wave.restarts_min, shown.restarted, "came back from a restart"),
        (wave.drills_min, shown.drilled, "passed a rollback drill under load"),
    ):
        wanted, have = min(needed or 0, len(inside)), _count(inside, names)
        if have < wanted:
            found.append(f"{hardware_class}: {have} of {wanted} devices {what}")
    return found


def words(wave: PlanWave) -> str:
    """What a wave has shown that passed, for people; empty if it was asked for nothing."""
    asked = [
        f"{needed} {what}"
        for needed, what in ((wave.restarts_min, "restarts"), (wave.drills_min, "rollback drills"))
        if needed
    ]
    return f"; with {' and '.join(asked)} in each class" if asked else ""


def _count(inside: Sequence[Member], names: Collection[str]) -> int:
    return sum(member.device in names for member in inside)
