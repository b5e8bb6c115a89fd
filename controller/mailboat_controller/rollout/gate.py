"""May the next wave start? The rules ``every`` and ``count``: per class, from the newest wave."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from mailboat_controller.rollout.halting import named
from mailboat_controller.rollout.members import Member, Outcome
from mailboat_schemas.plan import PlanWave


@dataclass(frozen=True, slots=True)
class Gate:
    """``passed`` is True only on verdicts. Silence holds a gate; it never passes it."""

    passed: bool
    because: str


def judge_class(wave: PlanWave, members: Sequence[Member], opened_at: datetime | None) -> Gate:
    """The newest open wave in one class.

    Args:
        members: who this wave lets in, without revoked devices.
        opened_at: when the wave opened, for people.
    """
    asked = [m for m in members if m.outcome is not Outcome.REFUSED]
    ok = sum(1 for m in asked if m.outcome is Outcome.OK)
    if not asked:
        return Gate(False, f"all {len(members)} devices refused the release; no verdict at all")
    if wave.ok_min:
        # A small class cannot bring more than it has; refusals do not make the number smaller.
        needed = min(wave.ok_min, len(members))
        if ok >= needed:
            return Gate(True, f"{ok} good verdicts, {needed} needed")
        missing = f"{len(members) - len(asked)} refused the release"
        if ok < len(asked):
            missing = _silent(asked, opened_at)
        return Gate(False, f"{ok} of {needed} good verdicts; {missing}")
    if ok == len(asked):
        return Gate(True, f"all {ok} good" if ok > 1 else "the one device is good")
    return Gate(False, _silent(asked, opened_at))


def _silent(asked: Sequence[Member], opened_at: datetime | None) -> str:
    silent = sorted(m.device for m in asked if m.outcome is not Outcome.OK)
    since = "" if opened_at is None else f" (waiting since {opened_at:%Y-%m-%d %H:%M:%SZ})"
    verb = "has" if len(silent) == 1 else "have"
    return f"{len(silent)} of {len(asked)} {verb} no verdict: {named(silent)}{since}"
