"""Which moves a rollout may make: a table, and nothing beside it."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from mailboat_schemas.errors import Conflict


class Phase(StrEnum):
    PLANNED = "planned"
    RUNNING = "running"
    PAUSED = "paused"  # nobody new is let in; those who are in go on
    COMPLETED = "completed"  # its release is current for every device of its classes
    HALTED = "halted"  # bad news; good news never reopens it, a new approval does
    ABORTED = "aborted"  # taken back without bad news
    SUPERSEDED = "superseded"  # a newer one has begun; who runs its release may keep it till then


class Trigger(StrEnum):
    START = "start"
    PROMOTE = "promote"  # a person opens the next wave, whatever the gate lacks
    PAUSE = "pause"
    RESUME = "resume"
    FINISH = "finish"
    HALT = "halt"
    ABORT = "abort"
    UNDO = "undo"  # takes a completed one back
    SUPERSEDE = "supersede"


TRANSITIONS: Mapping[tuple[Phase, Trigger], Phase] = MappingProxyType(
    {
        (Phase.PLANNED, Trigger.START): Phase.RUNNING,
        (Phase.PLANNED, Trigger.ABORT): Phase.ABORTED,
        (Phase.RUNNING, Trigger.PROMOTE): Phase.RUNNING,
        (Phase.RUNNING, Trigger.PAUSE): Phase.PAUSED,
        (Phase.RUNNING, Trigger.FINISH): Phase.COMPLETED,
        (Phase.RUNNING, Trigger.HALT): Phase.HALTED,
        (Phase.RUNNING, Trigger.ABORT): Phase.ABORTED,
        (Phase.RUNNING, Trigger.SUPERSEDE): Phase.SUPERSEDED,
        (Phase.PAUSED, Trigger.PROMOTE): Phase.RUNNING,
        (Phase.PAUSED, Trigger.RESUME): Phase.RUNNING,
        (Phase.PAUSED, Trigger.HALT): Phase.HALTED,
        (Phase.PAUSED, Trigger.ABORT): Phase.ABORTED,
        (Phase.PAUSED, Trigger.SUPERSEDE): Phase.SUPERSEDED,
        # A device may bring bad news days late, so completed is not the end.
        (Phase.COMPLETED, Trigger.HALT): Phase.HALTED,
        (Phase.COMPLETED, Trigger.UNDO): Phase.ABORTED,
        (Phase.SUPERSEDED, Trigger.HALT): Phase.HALTED,
        (Phase.SUPERSEDED, Trigger.ABORT): Phase.ABORTED,
    }
)

# A rollout in one of these has an offer in the manifests of its classes.
OFFERED = frozenset({Phase.RUNNING, Phase.PAUSED})
# Nothing that happens later changes one of these.
FINAL = frozenset({Phase.HALTED, Phase.ABORTED})
# What a person may tell a rollout; the rest follows from what devices tell and what is approved.
ORDERS = frozenset(
    {
        Trigger.START,
        Trigger.PROMOTE,
        Trigger.PAUSE,
        Trigger.RESUME,
        Trigger.ABORT,
        Trigger.UNDO,
    }
)


def move(rollout: str, phase: Phase, trigger: Trigger) -> Phase:
    """The phase after a trigger.

    Raises:
        Conflict: the table has no such move.
    """
    following = TRANSITIONS.get((phase, trigger))
    if following is None:
        allowed = sorted(each for at, each in TRANSITIONS if at is phase and each in ORDERS)
        raise Conflict(
            f"Rollout {rollout} is {phase}; it cannot {trigger}.",
            next_step=f"from {phase} it can only {' or '.join(allowed)}."
            if allowed
            else "approve the release again under a new rollout name.",
        )
    return following
