"""A circuit breaker as values: whether an endpoint may be asked, and when to try again. Pure.

An endpoint that fails is left alone, so that its callers do not wait for it and it can recover. One
request at a time tries whether it has; the waits between such probes double, with jitter.

Source: Nygard, "Release It!", "Circuit Breaker".
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random
from types import MappingProxyType

FAILURES_MAX = 3  # in a row; one may be a lost packet
PROBE_SECONDS_MIN = 2.0
PROBE_SECONDS_MAX = 300.0
_DOUBLINGS_MAX = 8  # keeps the arithmetic in range; the bound above is reached before


class State(StrEnum):
    CLOSED = "closed"  # asked
    OPEN = "open"  # left alone
    HALF_OPEN = "half-open"  # one request is asking whether it is well again


class Trigger(StrEnum):
    ANSWERED = "answered"
    FAILED = "failed"
    FAILED_TOO_OFTEN = "failed_too_often"
    PROBE = "probe"
    GIVEN_UP = "given_up"  # by its caller, who had no time left: that says nothing


TRANSITIONS: Mapping[tuple[State, Trigger], State] = MappingProxyType(
    {
        (State.CLOSED, Trigger.ANSWERED): State.CLOSED,
        (State.CLOSED, Trigger.FAILED): State.CLOSED,
        (State.CLOSED, Trigger.FAILED_TOO_OFTEN): State.OPEN,
        (State.CLOSED, Trigger.GIVEN_UP): State.CLOSED,
        (State.OPEN, Trigger.PROBE): State.HALF_OPEN,
        # Requests that were under way when it opened; only a probe closes it.
        (State.OPEN, Trigger.ANSWERED): State.OPEN,
        (State.OPEN, Trigger.FAILED): State.OPEN,
        (State.OPEN, Trigger.GIVEN_UP): State.OPEN,
        (State.HALF_OPEN, Trigger.ANSWERED): State.CLOSED,
        (State.HALF_OPEN, Trigger.FAILED): State.OPEN,
        (State.HALF_OPEN, Trigger.GIVEN_UP): State.OPEN,
    }
)


class ImpossibleMove(ValueError):
    """A pair that is not in the table: a bug of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """``probe_at`` is monotonic seconds; it counts while the breaker is open."""

    state: State = State.CLOSED
    failures_in_a_row: int = 0
    openings_in_a_row: int = 0
    probe_at: float = 0.0


def advance(state: State, trigger: Trigger) -> State:
    """
    Raises:
        ImpossibleMove
    """
    try:
        return TRANSITIONS[state, trigger]
    except KeyError:
        raise ImpossibleMove(f"{trigger} while {state}") from None


def may_ask(breaker: Breaker, now: float) -> bool:
    match breaker.state:
        case State.CLOSED:
            return True
        case State.OPEN:
            return now >= breaker.probe_at
        case State.HALF_OPEN:
            return False


def asked(breaker: Breaker) -> Breaker:
    """After `may_ask` has said yes, before the request goes out: one that is open is probed."""
    if breaker.state is State.CLOSED:
        return breaker
    return replace(breaker, state=advance(breaker.state, Trigger.PROBE))


def answered(breaker: Breaker) -> Breaker:
    state = advance(breaker.state, Trigger.ANSWERED)
    return Breaker() if state is State.CLOSED else replace(breaker, state=state)


def failed(breaker: Breaker, now: float, rng: Random) -> Breaker:
    failures = breaker.failures_in_a_row + 1
    too_often = breaker.state is State.CLOSED and failures >= FAILURES_MAX
    state = advance(breaker.state, Trigger.FAILED_TOO_OFTEN if too_often else Trigger.FAILED)
    moved = replace(breaker, state=state, failures_in_a_row=failures)
    if state is State.OPEN and breaker.state is not State.OPEN:
        return _opened(moved, now, rng)
    return moved


def given_up(breaker: Breaker, now: float, rng: Random) -> Breaker:
    """The caller's time was over before the endpoint's. A probe is tried again after the wait."""
    moved = replace(breaker, state=advance(breaker.state, Trigger.GIVEN_UP))
    if moved.state is State.OPEN and breaker.state is State.HALF_OPEN:
        return replace(moved, probe_at=now + _wait_seconds(breaker.openings_in_a_row - 1, rng))
    return moved


def _opened(breaker: Breaker, now: float, rng: Random) -> Breaker:
    return replace(
        breaker,
        openings_in_a_row=breaker.openings_in_a_row + 1,
        probe_at=now + _wait_seconds(breaker.openings_in_a_row, rng),
    )


def _wait_seconds(openings: int, rng: Random) -> float:
    """Doubling, between half and the whole of it, so that a site's devices do not probe at once."""
    doublings = min(max(openings, 0), _DOUBLINGS_MAX)
    whole = min(PROBE_SECONDS_MAX, PROBE_SECONDS_MIN * (1 << doublings))
    return whole * (0.5 + rng.random() / 2)
