"""What needs somebody, most urgent first, each with where to look and the next command. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from mailboat_controller.console.counted import Counted
from mailboat_controller.console.words import ago, number, percent, size
from mailboat_controller.explaining.conditions import Condition
from mailboat_controller.presence import Reach
from mailboat_controller.rollout.state import Phase
from mailboat_controller.store.overview_rows import RolloutLine
from mailboat_controller.trust.expiry import Level, RoleStatus

# SQLite needs room to copy, and devices' messages come whatever the disk has.
DISK_FREE_PERCENT_MIN = 10
SHOWN_MAX = 20


class Urgency(IntEnum):
    NOW = 0  # devices run something bad, or nothing can be decided
    TODAY = 1
    SOON = 2


STATES = {Urgency.NOW: "halted", Urgency.TODAY: "attention", Urgency.SOON: "waiting"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """``state`` is a badge's; ``path`` below the console; ``command`` "" where there is none."""

    urgency: Urgency
    state: str
    word: str
    what: str
    path: str
    command: str = ""
    since: datetime | None = None


def items(
    counted: Counted,
    halted: Sequence[RolloutLine],
    under_way: Sequence[RolloutLine],
    *,
    reach: Reach,
    leads: bool,
    absent_partitions: Sequence[int],
    now: datetime,
) -> list[Item]:
    """At most `SHOWN_MAX`."""
    found = [
        *_halted(halted),
        *_controller(counted, reach, leads=leads, absent_partitions=absent_partitions),
        *_trust(counted),
        *_sites(counted),
        *_devices(counted),
        *_paused(under_way, now),
    ]
    return sorted(found, key=lambda item: item.urgency)[:SHOWN_MAX]


def _halted(halted: Sequence[RolloutLine]) -> Iterator[Item]:
    for each in halted:
        yield Item(
            urgency=Urgency.NOW,
            state="halted",
            word="halted",
            what=f"Rollout {each.name} of {each.model} {each.version}: {each.because}",
            path=f"/rollouts/{each.name}",
            command=f"mailboat rollout status {each.name}",
            since=each.updated_at,
        )


def _controller(
    counted: Counted, reach: Reach, *, leads: bool, absent_partitions: Sequence[int]
) -> Iterator[Item]:
    if not leads:
        yield Item(
            urgency=Urgency.NOW,
            state="failed",
            word="leader lost",
            what="This controller has lost the lock in the database; another one may lead.",
            path="/",
            command="mailboat doctor",
        )
    if reach.away_since is not None:
        yield Item(
            urgency=Urgency.NOW,
            state="cut",
            word="broker away",
            what=f"No news of any device comes in: {reach.name} is away.",
            path="/fleet",
            command="mailboat doctor",
            since=reach.away_since,
        )
    if absent_partitions:
        names = ", ".join(str(each) for each in absent_partitions[:10])
        yield Item(
            urgency=Urgency.NOW,
            state="failed",
            word="ingest absent",
            what=f"Nobody takes in the messages of partition {names}.",
            path="/",
            command=f"mailboat ingest --partition {absent_partitions[0]}",
        )
    if counted.artifacts != "ok":
        yield Item(
            urgency=Urgency.NOW,
            state="damaged",
            word=f"artifacts {counted.artifacts}",
            what="Files of releases are damaged or cannot be reached; devices may wait for them.",
            path="/releases",
            command="mailboat artifact status",
        )
    if not counted.content_keys_usable:
        yield Item(
            urgency=Urgency.NOW,
            state="failed",
            word="keys locked",
            what="Content keys of encrypted releases cannot be opened here.",
            path="/trust",
            command="mailboat content-key list",
        )
    if counted.free_bytes * 100 < counted.total_bytes * DISK_FREE_PERCENT_MIN:
        left = percent(counted.free_bytes, counted.total_bytes)
        yield Item(
            urgency=Urgency.TODAY,
            state="attention",
            word="disk low",
            what=f"The controller’s disk has {size(counted.free_bytes)} left, {left}.",
            path="/",
            command="mailboat artifact status",
        )


_BY_LEVEL = {
    Level.EXPIRED: (Urgency.NOW, "expired"),
    Level.URGENT: (Urgency.TODAY, "expiring"),
    Level.SOON: (Urgency.SOON, "expiring"),
}


def _trust(counted: Counted) -> Iterator[Item]:
    for each in counted.expiring:
        urgency, state = _BY_LEVEL[each.level]
        name = (
            f"Role {each.role}"
            if isinstance(each, RoleStatus)
            else (f"Certificate {each.certificate}")
        )
        ends = "expired" if each.level is Level.EXPIRED else f"ends in {each.days_left} days"
        yield Item(
            urgency=urgency,
            state=state,
            word=ends if each.level is Level.EXPIRED else "expiring",
            what=f"{name} {ends}. Next: {each.next_step}",
            path="/trust",
            command="mailboat trust status",
        )


def _sites(counted: Counted) -> Iterator[Item]:
    for each in counted.cut:
        if each.expected:
            continue
        yield Item(
            urgency=Urgency.TODAY,
            state="cut",
            word="site cut",
            what=f"Site {each.name} is cut off; {number(each.devices)} devices go on alone.",
            path=f"/sites/{each.name}",
            command=f"mailboat site show {each.name}",
            since=each.since,
        )


def _devices(counted: Counted) -> Iterator[Item]:
    told = (
        (counted.doubled, Condition.DOUBLED, "attention", "whose id another seems to have"),
        (counted.silent_a_day, Condition.SILENT, "silent", "not heard of for a day or more"),
        (counted.disk_low, Condition.DISK_LOW, "attention", "with less than 512 MiB of disk left"),
        (
            counted.clock_wrong,
            Condition.CLOCK_WRONG,
            "attention",
            "with a clock a minute off",
        ),
    )
    for count, condition, state, what in told:
        if count:
            yield Item(
                urgency=Urgency.TODAY,
                state=state,
                word=condition.value.replace("-", " "),
                what=f"{number(count)} device{'s' if count > 1 else ''} {what}.",
                path=f"/fleet?selector=condition%3D{condition}&group=site",
                command=f"mailboat device list -l condition={condition}",
            )
    if counted.pending:
        yield Item(
            urgency=Urgency.SOON,
            state="pending",
            word="enrolment",
            what=f"{number(counted.pending)} device(s) wait for somebody to compare fingerprints.",
            path="/trust",
            command="mailboat device list --pending",
        )
    if counted.quarantined:
        yield Item(
            urgency=Urgency.SOON,
            state="attention",
            word="quarantine",
            what=f"{number(counted.quarantined)} messages could not be read and are set aside.",
            path="/",
        )


def _paused(under_way: Sequence[RolloutLine], now: datetime) -> Iterator[Item]:
    for each in under_way:
        if each.phase is Phase.PAUSED:
            yield Item(
                urgency=Urgency.SOON,
                state="paused",
                word="paused",
                what=f"Rollout {each.name} was paused {ago(each.updated_at, now)}: {each.because}",
                path=f"/rollouts/{each.name}",
                command=f"mailboat rollout resume {each.name} --reason WHY",
                since=each.updated_at,
            )
