"""Which states a row of the queue goes through. Pure: rows in, rows out."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from mailboat_controller.store.deltas import DeltaRow, State
from mailboat_schemas.errors import Conflict

ATTEMPTS_MAX = 3  # what fails three times, hours apart, fails for a reason
RETRY_AFTER = timedelta(minutes=10)  # after the first failure; four times as long after each
RETRY_FACTOR = 4
DISK_RETRY_AFTER = timedelta(minutes=5)
ERROR_CHARS_MAX = 1000


class Trigger(StrEnum):
    START = "start"
    BUILD = "build"  # it is built
    DECLINE = "decline"  # nothing is worth it
    RETRY = "retry"
    FAIL = "fail"
    LOSE = "lose"  # its patch is damaged or gone
    ORDER = "order"
    DROP = "drop"


TRANSITIONS: Mapping[tuple[State, Trigger], State] = MappingProxyType(
    {
        (State.WAITING, Trigger.START): State.BUILDING,
        (State.WAITING, Trigger.FAIL): State.FAILED,
        (State.BUILDING, Trigger.BUILD): State.BUILT,
        (State.BUILDING, Trigger.DECLINE): State.NOT_WORTH,
        (State.BUILDING, Trigger.RETRY): State.WAITING,
        (State.BUILDING, Trigger.FAIL): State.FAILED,
        (State.BUILT, Trigger.LOSE): State.WAITING,
        (State.WAITING, Trigger.ORDER): State.WAITING,
        (State.BUILDING, Trigger.ORDER): State.BUILDING,
        (State.BUILT, Trigger.ORDER): State.BUILT,
        (State.NOT_WORTH, Trigger.ORDER): State.WAITING,
        (State.FAILED, Trigger.ORDER): State.WAITING,
        (State.DROPPED, Trigger.ORDER): State.WAITING,
        **{(state, Trigger.DROP): State.DROPPED for state in State},
    }
)


def move(row: DeltaRow, trigger: Trigger, now: datetime, **news: Any) -> DeltaRow:
    """
    Raises:
        Conflict: a row in this state cannot do that.
    """
    state = TRANSITIONS.get((row.state, trigger))
    if state is None:
        raise Conflict(
            f"A delta that is {row.state} cannot {trigger}.",
            next_step="look at `mailboat release deltas`.",
        )
    return replace(row, state=state, updated_at=now, **news)


def started(row: DeltaRow, now: datetime) -> DeltaRow:
    """The attempt counts before it is made: one that takes the controller down is one, too."""
    return move(row, Trigger.START, now, attempts=row.attempts + 1)


def failed(row: DeltaRow, code: str, error: str, now: datetime) -> DeltaRow:
    told = {"code": code, "error": error[:ERROR_CHARS_MAX]}
    if row.attempts >= ATTEMPTS_MAX:
        return move(row, Trigger.FAIL, now, **told)
    after = RETRY_AFTER * RETRY_FACTOR ** max(0, row.attempts - 1)
    return move(row, Trigger.RETRY, now, next_attempt_at=now + after, **told)


def postponed(row: DeltaRow, code: str, error: str, now: datetime) -> DeltaRow:
    """What is not the pair's fault: a full disk is not an attempt."""
    return move(
        row,
        Trigger.RETRY,
        now,
        attempts=max(0, row.attempts - 1),
        next_attempt_at=now + DISK_RETRY_AFTER,
        code=code,
        error=error[:ERROR_CHARS_MAX],
    )


def interrupted(row: DeltaRow, now: datetime) -> DeltaRow:
    """The controller ends in order, which says nothing of the pair."""
    attempts = max(0, row.attempts - 1)
    return move(row, Trigger.RETRY, now, attempts=attempts, next_attempt_at=now)


def ordered(row: DeltaRow, actor: str, now: datetime) -> DeltaRow:
    """By a person: what failed or was dropped starts anew."""
    row = move(row, Trigger.ORDER, now, ordered_by=actor, unwanted_since=None)
    if row.state is not State.WAITING:
        return row
    return replace(row, attempts=0, code="", error="", next_attempt_at=now)


def dropped(row: DeltaRow, actor: str, now: datetime) -> DeltaRow:
    return move(row, Trigger.DROP, now, ordered_by=actor, offered=False)


def lost(row: DeltaRow, now: datetime) -> DeltaRow:
    """The controller ended while this was built. It goes on at once; but what takes the controller
    down with it, three times, was not built by accident."""
    if row.attempts < ATTEMPTS_MAX:
        return move(row, Trigger.RETRY, now, next_attempt_at=now, code="", error="")
    return failed(row, "E-DELTA-BUILD", "the controller ended each time it was built", now)


def bereft(row: DeltaRow, now: datetime) -> DeltaRow:
    """Its patch is not in the store any more, and nobody but us can make it again."""
    return move(
        row,
        Trigger.LOSE,
        now,
        attempts=0,
        next_attempt_at=now,
        format="",
        patch="",
        patch_length=0,
        memory_bytes=0,
        offered=False,
    )
