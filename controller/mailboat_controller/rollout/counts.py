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
) -> Counts:
    """One class of a rollout, over all of its open waves."""
    devices = tuple(members)
    reasons: Counter[str] = Counter()
    places: Counter[str] = Counter()
    for member in devices:
        reason = _excluded_now(member, plan)
        if reason is not None:
            reasons[reason] += 1
        else:
            opened = first_wave(plan, digest, waves, member) is not None
            places[_place(member, opened=opened)] += 1
    return _counts(len(devices), reasons, places)


def count_waves(
    plan: Plan, digest: str, waves: Sequence[OfferWave], members: Iterable[Member]
) -> tuple[Counts, ...]:
    """One class, wave by wave; a device counts in the first wave that lets it in."""
    reasons: list[Counter[str]] = [Counter() for _ in waves]
    places: list[Counter[str]] = [Counter() for _ in waves]
    for member in members:
        index = first_wave(plan, digest, waves, member)
        if index is None:
            continue
        reason = _excluded_now(member, plan)
        if reason is not None:
            reasons[index][reason] += 1
        else:
            places[index][_place(member, opened=True)] += 1
    return tuple(
        _counts(reason.total() + place.total(), reason, place)
        for reason, place in zip(reasons, places, strict=True)
    )


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


def _counts(devices: int, reasons: Counter[str], places: Counter[str]) -> Counts:
    return Counts(
        devices=devices,
        excluded=dict(sorted(reasons.items())),
        not_open=places["not_open"],
        waiting=places["waiting"],
        in_progress=places["in_progress"],
        ok=places["ok"],
        failed=places["failed"],
    )
