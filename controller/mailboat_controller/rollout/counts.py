"""The arithmetic people see: every device is in exactly one place, and the places add up."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mailboat_controller.rollout.members import Member, Outcome, admits, excluded
from mailboat_schemas.desired import OfferWave
from mailboat_schemas.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """``devices == excluded + eligible`` and
    ``eligible == not_open + waiting + in_progress + ok + failed``.

    Percentages are of ``eligible``. A device counts as excluded while it refuses the release.
    """

    devices: int
    excluded: Mapping[str, int]  # reason -> devices
    not_open: int  # eligible, but no open wave lets it in yet
    waiting: int  # let in and silent
    in_progress: int  # exposed without a verdict, or went back without one
    ok: int
    failed: int

    @property
    def excluded_total(self) -> int:
        return sum(self.excluded.values())

    @property
    def eligible(self) -> int:
        return self.not_open + self.waiting + self.in_progress + self.ok + self.failed

    def to_json(self) -> dict[str, object]:
        return {
            "devices": self.devices,
            "eligible": self.eligible,
            "excluded": dict(self.excluded),
            "not_open": self.not_open,
            "waiting": self.waiting,
            "in_progress": self.in_progress,
            "ok": self.ok,
            "failed": self.failed,
        }


def count_class(
    plan: Plan, digest: str, waves: Sequence[OfferWave], members: Iterable[Member]
) -> tuple[Counts, tuple[Counts, ...]]:
    """One class of a rollout: over all of its open waves, and wave by wave.

    A device counts in the first wave that lets it in.
    """
    total, by_wave = _Tally(), tuple(_Tally() for _ in waves)
    for member in members:
        index = first_wave(plan, digest, waves, member)
        reason = _excluded_now(member, plan)
        tallies = (total,) if index is None else (total, by_wave[index])
        for tally in tallies:
            if reason is None:
                tally.places[_place(member, opened=index is not None)] += 1
            else:
                tally.reasons[reason] += 1
    return total.counts(), tuple(tally.counts() for tally in by_wave)


def first_wave(plan: Plan, digest: str, waves: Sequence[OfferWave], member: Member) -> int | None:
    """Index of the first open wave that lets a device in."""
    for index, (wave, approved) in enumerate(zip(waves, plan.waves, strict=False)):
        if admits(wave, approved, digest, member):
            return index
    return None


def _excluded_now(member: Member, plan: Plan) -> str | None:
    # A verdict is news about the release, wherever the device stands by now.
    if member.outcome in {Outcome.OK, Outcome.FAILED}:
        return None
    if member.outcome is Outcome.REFUSED and not member.revoked:
        return f"refused: {member.because}" if member.because else "refused"
    return excluded(member, plan)


def _place(member: Member, *, opened: bool) -> str:
    match member.outcome:
        case Outcome.OK:
            return "ok"
        case Outcome.FAILED:
            return "failed"
        case Outcome.EXPOSED | Outcome.RETURNED:
            return "in_progress"
        case Outcome.REFUSED | None:
            return "waiting" if opened else "not_open"


class _Tally:
    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.places: Counter[str] = Counter()

    def counts(self) -> Counts:
        return Counts(
            devices=self.reasons.total() + self.places.total(),
            excluded=dict(sorted(self.reasons.items())),
            not_open=self.places["not_open"],
            waiting=self.places["waiting"],
            in_progress=self.places["in_progress"],
            ok=self.places["ok"],
            failed=self.places["failed"],
        )
