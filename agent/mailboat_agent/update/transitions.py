"""Which moves between phases exist. A pair that is not in the table is refused."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from mailboat_schemas.reports import ModelPhase


class Trigger(StrEnum):
    STAGE = "stage"  # fetch a release beside what serves
    SWITCH = "switch"  # everything is on disk: the record now names it
    PASSED = "passed"  # the trial, or the soak
    FALL_BACK = "fall_back"  # to a release that was here before
    EMPTY = "empty"  # nothing to fall back to


class ImpossibleTransition(Exception):
    """A bug: code asked for a move that the table does not have."""


TRANSITIONS: Mapping[tuple[ModelPhase, Trigger], ModelPhase] = MappingProxyType(
    {
        (ModelPhase.ABSENT, Trigger.STAGE): ModelPhase.STAGING,
        (ModelPhase.COMMITTED, Trigger.STAGE): ModelPhase.STAGING,
        # A soak that nothing waits for any more is left only when there is something to go to.
        (ModelPhase.SOAK, Trigger.STAGE): ModelPhase.STAGING,
        (ModelPhase.STAGING, Trigger.SWITCH): ModelPhase.TRIAL,
        (ModelPhase.TRIAL, Trigger.PASSED): ModelPhase.SOAK,
        (ModelPhase.TRIAL, Trigger.FALL_BACK): ModelPhase.COMMITTED,
        (ModelPhase.TRIAL, Trigger.EMPTY): ModelPhase.ABSENT,
        (ModelPhase.SOAK, Trigger.PASSED): ModelPhase.COMMITTED,
        (ModelPhase.SOAK, Trigger.FALL_BACK): ModelPhase.COMMITTED,
        (ModelPhase.SOAK, Trigger.EMPTY): ModelPhase.ABSENT,
        # Committed is not the end: a release may be withdrawn, halted late, or damaged on disk.
        (ModelPhase.COMMITTED, Trigger.FALL_BACK): ModelPhase.COMMITTED,
        (ModelPhase.COMMITTED, Trigger.EMPTY): ModelPhase.ABSENT,
    }
)


def advance(phase: ModelPhase, trigger: Trigger) -> ModelPhase:
    """The phase after a trigger.

    Raises:
        ImpossibleTransition: the pair is not in the table.
    """
    following = TRANSITIONS.get((phase, trigger))
    if following is None:
        raise ImpossibleTransition(f"{trigger} has no meaning in phase {phase}")
    return following
