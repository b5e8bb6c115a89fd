"""Loading what a rollout is decided on: rows in, the values of the pure package out."""

from collections.abc import Iterable, Mapping
from typing import Any

from mailboat_controller.held_trust import HeldTrust
from mailboat_controller.rollout.counts import count_class, count_waves
from mailboat_controller.rollout.decide import Facts, Rollout
from mailboat_controller.rollout.members import Member, Outcome, stronger
from mailboat_controller.rollout.state import Phase
from mailboat_controller.store import devices, outcomes, releases
from mailboat_controller.store.outcomes import OutcomeRow
from mailboat_controller.store.rollouts import RolloutRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.reports import ModelPhase

NOT_STARTED = frozenset({Phase.PLANNED, Phase.ABORTED})


def covered_classes(tx: Transaction, rollout: Rollout) -> tuple[str, ...]:
    """The classes the release has a variant for and the plan covers."""
    release = releases.by_digest(tx, rollout.digest)
    if release is None:
        return ()
    named = (name for variant in release.parsed().variants for name in variant.hardware_classes)
    return tuple(sorted(name for name in named if rollout.plan.covers(name)))


def load(
    tx: Transaction, rollout: Rollout, classes: Iterable[str]
) -> dict[str, tuple[Member, ...]]:
    """The devices of each class with their outcomes.

    A completed rollout only waits for bad news, so only the bearers of bad news are loaded: it may
    cover the whole fleet.
    """
    by_device = _outcomes(tx, rollout)
    only: frozenset[str] | None = None
    if rollout.phase is Phase.COMPLETED:
        only = frozenset(d for d, row in by_device.items() if row.outcome is Outcome.FAILED)
        if not only:
            return dict.fromkeys(classes, ())
    return {
        hardware_class: tuple(
            _member(row, by_device.get(row.device))
            for row in devices.members(tx, hardware_class)
            if only is None or row.device in only
        )
        for hardware_class in classes
    }


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


def status(tx: Transaction, row: RolloutRow) -> dict[str, Any]:
    """A rollout as people see it, with counts that add up."""
    rollout = row.rollout
    classes = covered_classes(tx, rollout)
    # As if it ran, so that a completed one counts its whole fleet too.
    by_device = _outcomes(tx, rollout)
    counted = {}
    for hardware_class in classes:
        members = tuple(
            _member(member, by_device.get(member.device))
            for member in devices.members(tx, hardware_class)
        )
        waves = rollout.opened.get(hardware_class, ())
        total = count_class(rollout.plan, rollout.digest, waves, members)
        counted[hardware_class] = {
            **total.to_json(),
            "waves": [
                wave.to_json() for wave in count_waves(rollout.plan, rollout.digest, waves, members)
            ],
        }
    return {
        "name": rollout.name,
        "model": rollout.model,
        "version": rollout.version,
        "digest": rollout.digest,
        "phase": rollout.phase.value,
        "because": rollout.because,
        "waves_open": rollout.waves_open,
        "waves": len(rollout.plan.waves),
        "retry_epoch": rollout.retry_epoch,
        "created_at": row.created_at.isoformat(),
        "started_at": None if row.started_at is None else row.started_at.isoformat(),
        "wave_opened_at": None
        if rollout.wave_opened_at is None
        else rollout.wave_opened_at.isoformat(),
        "completed_at": None if row.completed_at is None else row.completed_at.isoformat(),
        "classes": counted,
    }


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
    for device, row in earlier.items():
        # A device that runs the release already has no reason to try it, and to say so, again.
        if device not in found and _runs(tx, device, rollout.digest):
            found[device] = row
    return found


def _runs(tx: Transaction, device: str, digest: str) -> bool:
    row = devices.by_name(tx, device)
    models = [] if row is None or row.report is None else row.report["models"]
    return any(
        model["serving_digest"] == digest and model["phase"] == ModelPhase.COMMITTED
        for model in models
    )


def _member(row: devices.Member, outcome: OutcomeRow | None) -> Member:
    return Member(
        device=row.device,
        enrolment_number=row.enrolment_number,
        labels=row.labels,
        revoked=row.revoked,
        outcome=None if outcome is None else outcome.outcome,
        because="" if outcome is None else outcome.because or outcome.code,
        last_seen_at=row.last_seen_at,
    )
