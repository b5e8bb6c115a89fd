"""What is known of a release so far: one verdict for each exposed device, over all of its waves.

Exposed is who began to fetch it here, told that it began a trial, or told a verdict. *Silent* is
an exposed device without a verdict; it is neither good nor bad, and whoever counts has to say as
which it takes it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from mailboat_controller.rollout.members import Member, Outcome, admits
from mailboat_schemas.desired import OfferWave
from mailboat_schemas.plan import Plan

_SETTLED = frozenset({Outcome.OK, Outcome.FAILED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """``exposed == ok + failed + silent``; ``overdue`` are some of the silent ones."""

    ok: int = 0
    failed: int = 0
    silent: int = 0
    overdue: int = 0  # silent for longer than a verdict takes

    @property
    def exposed(self) -> int:
        return self.ok + self.failed + self.silent

    @property
    def against(self) -> int:
        """What counts against promotion: whatever the silent ones will say, it is not worse."""
        return self.failed + self.silent

    def to_json(self) -> dict[str, int]:
        return {
            "exposed": self.exposed,
            "ok": self.ok,
            "failed": self.failed,
            "silent": self.silent,
            "overdue": self.overdue,
        }


@dataclass(frozen=True, slots=True)
class Exposed:
    """A device that counts as evidence, and the class and wave it counts in."""

    member: Member
    hardware_class: str
    wave: int | None  # index of the first open wave that lets it in; None: none does any more


def is_exposed(member: Member) -> bool:
    """In this retry epoch: a good verdict of an earlier one speaks of survivors alone."""
    if member.outcome is Outcome.FAILED:
        return True
    return member.exposed_at_ms is not None and member.outcome not in {None, Outcome.REFUSED}


def with_redemption(
    outcome: Outcome | None, exposed_at_ms: int | None, redeemed_at_ms: int | None
) -> tuple[Outcome | None, int | None]:
    """What a device told of this try, and when it began to fetch the release: (outcome, exposed
    since). The same in whatever order the two came.

    A refusal stands, as the device says that it tried nothing; so does a good verdict of an
    earlier try, which is no exposure in this one.
    """
    if redeemed_at_ms is None:
        return outcome, exposed_at_ms
    if outcome is None:
        return Outcome.EXPOSED, redeemed_at_ms
    if exposed_at_ms is None or outcome is Outcome.REFUSED:
        return outcome, exposed_at_ms
    return outcome, min(exposed_at_ms, redeemed_at_ms)


def exposed_of(
    plan: Plan,
    digest: str,
    hardware_class: str,
    waves: Sequence[OfferWave],
    members: Iterable[Member],
) -> list[Exposed]:
    """The evidence of one class.

    A revoked device counts with the verdict it gave, and is not waited for without one. A device
    that no wave lets in counts only with bad news.
    """
    found = []
    pairs = list(enumerate(zip(waves, plan.waves, strict=False)))
    for member in members:
        if not is_exposed(member):
            continue
        settled = member.outcome in _SETTLED
        if member.revoked and not settled:
            continue
        for index, (wave, approved) in pairs:
            if admits(wave, approved, digest, member):
                found.append(Exposed(member, hardware_class, index))
                break
        else:
            if member.outcome is Outcome.FAILED:
                found.append(Exposed(member, hardware_class, None))
    return found


def tally(exposed: Iterable[Exposed], overdue_since: datetime) -> Evidence:
    """
    Args:
        overdue_since: who was exposed before and has told nothing since is overdue. A device that
            went back without a verdict has told so.
    """
    ok = failed = silent = overdue = 0
    limit_ms = overdue_since.timestamp() * 1000
    for each in exposed:
        member = each.member
        if member.outcome is Outcome.OK:
            ok += 1
        elif member.outcome is Outcome.FAILED:
            failed += 1
        else:
            silent += 1
            waits = member.outcome is Outcome.EXPOSED
            overdue += waits and _silent_since_ms(member) <= limit_ms
    return Evidence(ok=ok, failed=failed, silent=silent, overdue=overdue)


def _silent_since_ms(member: Member) -> int:
    """Who began a trial owes its verdict from then on. Who only fetched may wait for a window, or
    still fetch over a slow link: it has vanished when nothing at all was heard of it since."""
    exposed_at_ms = member.exposed_at_ms or 0
    return max(exposed_at_ms, member.seen_at_ms or 0) if member.fetched else exposed_at_ms
