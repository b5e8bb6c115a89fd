"""When this device's clock cannot be right: before the floor, or implausibly long after it.

Only offline-signed roles take part: a time that an online key could set would let a stolen
controller push a fleet's clock floor into the future.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

BUILT_AT = 1_767_225_600  # 2026-01-01T00:00:00Z: no agent of this code ran before
SKEW_SECONDS_MAX = 300  # the signer's clock may be ahead of a device's that is right enough
AHEAD_SECONDS_MAX = 400 * 86_400  # approvals are signed again within months, if anybody is heard
ISSUED_FIELD = "x-mailboat-issued"


def time_floor(issued: Iterable[object], held: int = 0) -> int:
    """The floor in seconds since 1970 UTC; what cannot be read as a time is passed over."""
    return max([BUILT_AT, held, *(_seconds(text) for text in issued)])


def stands_before(now: datetime, floor: int) -> bool:
    """Whether a clock that says ``now`` is certainly wrong."""
    return now.timestamp() < floor - SKEW_SECONDS_MAX


def stands_far_ahead(now: datetime, floor: int) -> bool:
    """Whether the device has been away for very long, or its clock is wrong. The floor does not
    move with it; only metadata that holds today can tell the two apart."""
    return now.timestamp() > floor + AHEAD_SECONDS_MAX


def _seconds(text: object) -> int:
    try:
        issued = datetime.fromisoformat(str(text))
    except ValueError:
        return 0
    return int(issued.replace(tzinfo=issued.tzinfo or UTC).timestamp())
