"""What an approval does to rollouts: it begins one, or gives its plan to the one of its name."""

from dataclasses import replace
from datetime import datetime

from mailboat_controller.rollout.decide import Rollout
from mailboat_controller.rollout.state import FINAL, Phase, Trigger, move
from mailboat_controller.store import audit, outcomes, rollouts
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.trust.intake import Approval
from mailboat_schemas.errors import Conflict
from mailboat_schemas.plan import Plan


def take_approval(tx: Transaction, approval: Approval, sender: str, now: datetime) -> str | None:
    """Create the rollout of an approval, or give its plan to the one that has its name.

    Returns:
        A note for the approver when no rollout was created.

    Raises:
        Conflict: the name belongs to a rollout of another release.
    """
    known = rollouts.find(tx, approval.plan.rollout)
    if known is None:
        rollouts.create(tx, _planned(tx, approval), now)
        return None
    rollout = known.rollout
    if (rollout.model, rollout.digest) != (approval.model, approval.digest):
        raise Conflict(
            f"The rollout name {rollout.name} belongs to {rollout.model} {rollout.version}.",
            next_step="approve under another rollout name.",
        )
    if rollout.phase in FINAL or rollout.phase is Phase.COMPLETED:
        # A class that the new plan adds would get a completed release at once, by no wave.
        return (
            f"rollout {rollout.name} is {rollout.phase} and keeps its plan; approve under a new "
            "rollout name to run it again"
        )
    changed = _with_plan(rollout, approval.plan)
    rollouts.save(tx, replace(known, rollout=changed), now)
    note = f"rollout {rollout.name} goes on with the new plan"
    if changed.phase is Phase.HALTED:
        note = f"rollout {rollout.name} was halted: {changed.because}"
    audit.append(
        tx,
        at=now,
        actor=sender,
        action="rollout.plan",
        subject=rollout.name,
        reason=note,
        details={"from": rollout.phase.value, "to": changed.phase.value},
    )
    return note


def _planned(tx: Transaction, approval: Approval) -> Rollout:
    offered = rollouts.highest_retry_epoch(tx, approval.model)
    failed_in = outcomes.highest_failed_epoch(tx, approval.digest, offered=offered)
    # A rollout waits for verdicts of its own. Those of an earlier one do not open its waves, unless
    # the device still runs the release: it may have been withdrawn or replaced in between.
    ran_before = rollouts.any_of(tx, approval.digest)
    return Rollout(
        name=approval.plan.rollout,
        model=approval.model,
        version=approval.version,
        digest=approval.digest,
        plan=approval.plan,
        phase=Phase.PLANNED,
        because="approved",
        # A release that failed is approved again: devices where it failed may try it once more.
        retry_epoch=max(
            offered + 1 if ran_before else 0, 0 if failed_in is None else failed_in + 1
        ),
    )


def _with_plan(rollout: Rollout, plan: Plan) -> Rollout:
    """The rollout on its new plan; halted when an open wave would now be for other devices.

    Devices read the ring of a wave from the plan and its width from the offer, which was counted
    out for the old ring: many more than the wave names could find themselves in.
    """
    opened = rollout.plan.waves[: rollout.waves_open]
    same = all(old.ring == new.ring for old, new in zip(opened, plan.waves, strict=False))
    if same:
        return replace(rollout, plan=plan)
    return replace(
        rollout,
        plan=plan,
        phase=move(rollout.name, rollout.phase, Trigger.HALT),
        because="the approver changed the ring of a wave that is open",
    )
