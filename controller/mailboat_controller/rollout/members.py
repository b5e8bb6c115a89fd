"""Who takes part in a rollout, and whom a wave lets in: exactly as many as it names.

A wave, once open, never changes: it is the number `upto` and the roster that devices compare
themselves with. Waves are only added, so nobody who is in is ever put out by a later one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from mailboat_schemas import cohort
from mailboat_schemas.desired import ABSENT_MAX, OfferWave
from mailboat_schemas.plan import Plan, PlanWave

# A roster of 0 says that a wave was left out, which devices refuse: mailboat_schemas.eligibility.
ROSTER_MIN = 1


class Outcome(StrEnum):
    """What became of a device with a release, weakest evidence first: see `stronger`."""

    REFUSED = "refused"  # before any exposure: trust, plan or fit
    EXPOSED = "exposed"
    RETURNED = "returned"  # went back without a verdict
    OK = "ok"
    FAILED = "failed"


_STRENGTH = {outcome: strength for strength, outcome in enumerate(Outcome)}


def stronger(held: Outcome | None, told: Outcome) -> Outcome:
    """The fold of two pieces of news, the same in any order and however often they are told."""
    return told if held is None or _STRENGTH[told] > _STRENGTH[held] else held


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A device of a class that a rollout covers, and its outcome in this retry epoch."""

    device: str
    enrolment_number: int
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    revoked: bool = False
    outcome: Outcome | None = None  # None: silent
    code: str = ""  # of a refusal or a failure
    because: str = ""  # likewise
    # Milliseconds since 1970 UTC by the controller's clock; None: never, in this retry epoch.
    exposed_at_ms: int | None = None
    fetched: bool = False  # exposed by its download alone: it has told nothing of the release
    seen_at_ms: int | None = None
    slow: bool | None = None  # its p95 against before; None: not measured, or nobody asked
    # The release that was asked about last, and the place for it: every open wave asks. One value,
    # so that no thread sees the one without the other.
    _placed: tuple[str, str] = field(default=("", ""), init=False, repr=False, compare=False)

    def place(self, digest: str) -> str:
        """Where it stands for a release: see `cohort.position`."""
        of, place = self._placed
        if of != digest:
            place = cohort.position(digest, self.device)
            # Frozen for everybody else: nothing of it can be seen but how long it takes.
            object.__setattr__(self, "_placed", (digest, place))
        return place


def excluded(member: Member, plan: Plan) -> str | None:
    """Why the plan can never let this device in, or None when it can."""
    if member.revoked:
        return "revoked"
    for wave in plan.waves:
        if member.device in wave.pilots or (_by_position(wave) and wave.matches(member.labels)):
            return None
    return "in no ring of the plan"


def admits(wave: OfferWave, approved: PlanWave, digest: str, member: Member) -> bool:
    """Whether an open wave lets this device in: the same comparison that the device makes."""
    if member.device in wave.pilots:
        return True
    # The cheap questions first: this is asked for every device of a class, of every open wave.
    return (
        member.enrolment_number <= wave.roster
        and (wave.upto == cohort.UPTO_ALL or member.place(digest) <= wave.upto)
        and (not approved.ring or approved.matches(member.labels))
        and member.device not in wave.absent
    )


def open_wave(
    approved: PlanWave,
    digest: str,
    members: Iterable[Member],
    others: Iterable[str] = (),
    *,
    seen_since_ms: int = 0,
    earlier: Sequence[tuple[OfferWave, PlanWave]] = (),
) -> OfferWave:
    """The wave as it opens now in one class.

    Args:
        members: all devices of the class.
        others: devices of other classes, whose pilots need no mention here. Pilots that are not
            enrolled yet stay in, so that they are let in when they come.
        seen_since_ms: who was last heard from before is passed over by a statistical gate, which
            learns nothing of devices that do not answer. They wait for the next wave.
        earlier: the waves that are open in this class.
    """
    devices = tuple(members)
    labelled = [m for m in devices if not m.revoked and approved.matches(m.labels)]
    count = wanted(approved, len(labelled))
    absent: tuple[str, ...] = ()
    if approved.gate is None:
        upto = cohort.upto_for(digest, [m.device for m in labelled], count)
    else:
        held = [
            m
            for m in labelled
            if any(
                old.ring == approved.ring
                and m.device not in wave.pilots
                and admits(wave, old, digest, m)
                for wave, old in earlier
            )
        ]
        upto, absent = _canaries(digest, labelled, count, seen_since_ms, held)
    elsewhere = set(others)
    return OfferWave(
        # Devices refuse more than the approver's cap, so offering more would only make noise.
        upto=min(upto, cohort.upto_of_ppm(approved.cap_ppm)),
        roster=max((m.enrolment_number for m in devices), default=ROSTER_MIN),
        pilots=tuple(pilot for pilot in approved.pilots if pilot not in elsewhere),
        absent=absent,
    )


def _canaries(
    digest: str,
    labelled: Sequence[Member],
    count: int,
    seen_since_ms: int,
    held: Sequence[Member],
) -> tuple[str, tuple[str, ...]]:
    """How far to open so that ``count`` devices are in, with those ``held`` by earlier waves, and
    whom to leave out by name.

    An earlier wave that left devices out reaches further down the ranks than it has devices, so who
    is in is counted, not taken from the rank.
    """
    if count <= 0:
        return cohort.UPTO_NONE, ()  # also of nobody: a ring that is empty now may not be later
    if count >= len(labelled):
        return cohort.UPTO_ALL, ()
    inside = {m.device for m in held}
    away = {m.device for m in labelled if m.seen_at_ms is not None and m.seen_at_ms < seen_since_ms}
    more = count - len(inside)
    if more <= 0:
        return cohort.UPTO_NONE, ()
    order = [m for m in labelled if m.device not in inside]
    order.sort(key=lambda member: member.place(digest))
    absent: list[str] = []
    taken = 0
    for member in order:
        if member.device in away:
            absent.append(member.device)
        else:
            taken += 1
        if taken == more and len(absent) <= ABSENT_MAX:
            return member.place(digest), tuple(absent)
    # Too few are there, or too many are not to name them all: the rank decides alone.
    return order[more - 1].place(digest), ()


def wanted(approved: PlanWave, eligible: int) -> int:
    """How many of ``eligible`` devices the wave names: its count, or its share rounded up."""
    if approved.count:
        return min(approved.count, eligible)
    return -(-approved.count_ppm * eligible // cohort.PPM)


def _by_position(wave: PlanWave) -> bool:
    return wave.cap_ppm > 0 and (wave.count > 0 or wave.count_ppm > 0)
