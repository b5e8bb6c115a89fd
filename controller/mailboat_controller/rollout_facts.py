"""Loading what a rollout is decided on: rows in, the values of the pure package out."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from mailboat_controller.rollout.counts import count_class
from mailboat_controller.rollout.decide import Facts, Rollout
from mailboat_controller.rollout.evidence import with_redemption
from mailboat_controller.rollout.exit_criteria import NOBODY, ShownBy, asks
from mailboat_controller.rollout.members import Member, Outcome, stronger
from mailboat_controller.rollout.state import Phase
from mailboat_controller.store import (
    deliveries,
    devices,
    exit_evidence,
    outcomes,
    paired_latency,
    redemptions,
    releases,
)
from mailboat_controller.store.exit_evidence import Shown
from mailboat_controller.store.outcomes import OutcomeRow
from mailboat_controller.store.rollouts import RolloutRow
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.trust.held_trust import HeldTrust
from mailboat_schemas.cohort import PPM
from mailboat_schemas.desired import ReleaseRef

NOT_STARTED = frozenset({Phase.PLANNED, Phase.ABORTED})
AWAITS_BAD_NEWS = frozenset({Phase.COMPLETED, Phase.SUPERSEDED})


def covered_classes(tx: Transaction, rollout: Rollout) -> tuple[str, ...]:
    """The classes the release has a variant for and the plan covers."""
    release = releases.by_digest(tx, rollout.digest)
    if release is None:
        return ()
    named = (name for variant in release.parsed().variants for name in variant.hardware_classes)
    return tuple(sorted(name for name in named if rollout.plan.covers(name)))


class Classes:
    """The devices of each class, read once however many rollouts ask for them."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._held: dict[str, tuple[devices.Member, ...]] = {}

    def members(self, hardware_class: str) -> tuple[devices.Member, ...]:
        if hardware_class not in self._held:
            self._held[hardware_class] = devices.members(self._tx, hardware_class)
        return self._held[hardware_class]


def load(
    tx: Transaction,
    rollout: Rollout,
    names: Iterable[str],
    classes: Classes,
    *,
    everybody: bool = False,
) -> dict[str, tuple[Member, ...]]:
    """The devices of each named class with their outcomes.

    A completed or superseded rollout only waits for bad news, so only the bearers of bad news are
    loaded, unless it is asked for ``everybody``: it may cover the whole fleet, and stays as it is
    for years.
    """
    if everybody or rollout.phase not in AWAITS_BAD_NEWS:
        by_device = _outcomes(tx, rollout)
        slow = _slow(tx, rollout, by_device)
        return {
            name: tuple(
                _member(row, by_device.get(row.device), slow.get(row.device))
                for row in classes.members(name)
            )
            for name in names
        }
    failed = {
        row.device: row
        for row in outcomes.failures(tx, rollout.digest)
        if row.retry_epoch >= rollout.retry_epoch
    }
    if not failed:
        return dict.fromkeys(names, ())
    return {
        name: tuple(
            _member(row, failed[row.device])
            for row in classes.members(name)
            if row.device in failed
        )
        for name in names
    }


def ok_elsewhere(
    tx: Transaction, rollout: Rollout, members: Mapping[str, tuple[Member, ...]]
) -> int:
    """Good verdicts beside the bad news, where `load` leaves them out: see `Facts`."""
    if rollout.phase not in AWAITS_BAD_NEWS or rollout.terms is None or not any(members.values()):
        return 0
    return outcomes.count_ok(tx, rollout.digest, since_epoch=rollout.retry_epoch)


def facts(
    rollout: RolloutRow,
    members: Mapping[str, tuple[Member, ...]],
    trust: HeldTrust,
    others: Iterable[RolloutRow],
    classes_of: Mapping[str, tuple[str, ...]],
) -> Facts:
    """Args: others: rollouts of the same model; classes_of: the classes each rollout covers."""
    mine = rollout.rollout
    newer = [
        other
        for other in others
        if other.rollout.name != mine.name
        and other.rollout.phase not in NOT_STARTED
        # Until it lets somebody in, it would take the place of this one with nothing.
        and other.rollout.waves_open > 0
        and (other.start_number or 0) > (rollout.start_number or 0)
        and not set(classes_of[other.rollout.name]).isdisjoint(classes_of[mine.name])
    ]
    return Facts(
        members=members,
        approved=trust.approved(mine.model, mine.version, mine.digest),
        superseded_by=max(newer, key=lambda row: row.start_number or 0).rollout.name
        if newer
        else None,
    )


def standing_releases(
    covering: Iterable[RolloutRow], model: str, retired: Collection[str]
) -> list[ReleaseRef]:
    """Releases of completed rollouts, the newest first: what is current, and what a device may
    go back to. Bad news and withdrawals have halted theirs.

    Args:
        covering: rollouts that cover the class.
        retired: digests whose files may be gone.
    """
    completed = [
        row
        for row in covering
        if row.rollout.model == model
        and row.rollout.phase is Phase.COMPLETED
        and row.rollout.digest not in retired
    ]
    completed.sort(key=lambda row: row.completion_number or 0, reverse=True)
    refs = [ReleaseRef(version=row.rollout.version, digest=row.rollout.digest) for row in completed]
    return list(dict.fromkeys(refs))


def shown_by(tx: Transaction, row: RolloutRow) -> ShownBy:
    """What devices showed since the rollout began, where its newest open wave asks for it."""
    index = row.rollout.waves_open - 1
    if index < 0 or row.started_at is None or not asks(row.rollout.plan.waves[index]):
        return NOBODY
    found = exit_evidence.of_release(tx, row.rollout.digest, row.started_at)
    return ShownBy(restarted=found[Shown.RESTARTED], drilled=found[Shown.DRILLED])


def summary(row: RolloutRow) -> dict[str, Any]:
    """A rollout as people see it in a list: what its own row says."""
    rollout = row.rollout
    return {
        "name": rollout.name,
        "model": rollout.model,
        "version": rollout.version,
        "digest": rollout.digest,
        "phase": rollout.phase.value,
        "because": rollout.because,
        "waves_open": rollout.waves_open,
        # Such a release waits for no window, cadence, metered link or jitter, and who signed it as
        # one gave this reason; empty: it waits as any other.
        "emergency": rollout.plan.reason or "" if rollout.plan.is_emergency else "",
        "waves": len(rollout.plan.waves),
        "retry_epoch": rollout.retry_epoch,
        "created_at": row.created_at.isoformat(),
        "started_at": None if row.started_at is None else row.started_at.isoformat(),
        "wave_opened_at": None
        if rollout.wave_opened_at is None
        else rollout.wave_opened_at.isoformat(),
        "completed_at": None if row.completed_at is None else row.completed_at.isoformat(),
    }


def status(tx: Transaction, row: RolloutRow, classes: Classes) -> dict[str, Any]:
    """The same, with counts that add up. Reads every device of its classes."""
    rollout = row.rollout
    # Of a completed one too: `load` would bring the bearers of bad news alone.
    by_device = _outcomes(tx, rollout)
    return counted(
        tx,
        row,
        {
            name: (_member(row, by_device.get(row.device)) for row in classes.members(name))
            for name in covered_classes(tx, rollout)
        },
    )


def counted(
    tx: Transaction, row: RolloutRow, members: Mapping[str, Iterable[Member]]
) -> dict[str, Any]:
    """`status` of devices that are loaded already, all of each class."""
    rollout, found = row.rollout, {}
    for name, devices_of_class in members.items():
        waves = rollout.opened.get(name, ())
        total, by_wave = count_class(rollout.plan, rollout.digest, waves, devices_of_class)
        found[name] = {**total.to_json(), "waves": [wave.to_json() for wave in by_wave]}
    came = [each.to_json() for each in deliveries.of_release(tx, rollout.digest)]
    return {**summary(row), "classes": found, "deliveries": came}


def _outcomes(tx: Transaction, rollout: Rollout) -> dict[str, OutcomeRow]:
    """One outcome a device: of this retry epoch, or an earlier good one that still holds."""
    found: dict[str, OutcomeRow] = {}
    earlier: dict[str, OutcomeRow] = {}
    for row in outcomes.of_release(tx, rollout.digest):
        if row.retry_epoch >= rollout.retry_epoch:
            held = found.get(row.device)
            if held is None or stronger(held.outcome, row.outcome) is not held.outcome:
                found[row.device] = row
        elif row.outcome is Outcome.OK:
            earlier[row.device] = row
    # A device that runs the release already has no reason to try it, and to say so, again.
    unheard = [device for device in earlier if device not in found]
    for device in devices.committed_to(tx, rollout.digest, unheard):
        # Of this retry it says nothing: those that failed it before are not among them.
        found[device] = earlier[device]._replace(exposed_at_ms=None)
    _redeem(tx, rollout, found)
    return found


def _redeem(tx: Transaction, rollout: Rollout, found: dict[str, OutcomeRow]) -> None:
    """Exposed is also who fetched the release and has not been heard of since."""
    epoch = rollout.retry_epoch
    for device, at in redemptions.of_release(tx, rollout.digest, since_epoch=epoch).items():
        told = found.get(device)
        if told is None:
            found[device] = OutcomeRow(device, epoch, Outcome.EXPOSED, "", "", at, fetched=True)
            continue
        outcome, exposed_at_ms = with_redemption(told.outcome, told.exposed_at_ms, at)
        found[device] = told._replace(outcome=outcome or told.outcome, exposed_at_ms=exposed_at_ms)


def _slow(
    tx: Transaction, rollout: Rollout, by_device: Mapping[str, OutcomeRow]
) -> Mapping[str, bool]:
    """Which exposed devices became slower, where the plan asks; their telemetry is read for it."""
    terms = rollout.terms
    if terms is None or terms.latency_ratio_ppm == 0 or rollout.wave_opened_at is None:
        return {}
    exposed = sorted(name for name, row in by_device.items() if row.exposed_at_ms is not None)
    return paired_latency.slow_devices(
        tx,
        rollout.model,
        rollout.digest,
        exposed,
        since=rollout.wave_opened_at,
        ratio=terms.latency_ratio_ppm / PPM,
    )


def _member(row: devices.Member, outcome: OutcomeRow | None, slow: bool | None = None) -> Member:
    return Member(
        device=row.device,
        enrolment_number=row.enrolment_number,
        labels=row.labels,
        revoked=row.revoked,
        outcome=None if outcome is None else outcome.outcome,
        code="" if outcome is None else outcome.code,
        because="" if outcome is None else outcome.because or outcome.code,
        exposed_at_ms=None if outcome is None else outcome.exposed_at_ms,
        fetched=outcome is not None and outcome.fetched,
        seen_at_ms=row.seen_at_ms,
        slow=slow,
    )
