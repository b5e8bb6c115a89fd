"""The instant before which this device's clock cannot be right.

Only offline-signed roles take part: a time that an online key could set would let a stolen
controller push a fleet's clock floor into the future.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

BUILT_AT = 1_767_225_600  # 2026-01-01T00:00:00Z: no agent of this code ran before
SKEW_SECONDS_MAX = 300  # the signer's clock may be ahead of a device's that is right enough
ISSUED_FIELD = "x-mailboat-issued"


def time_floor(issued: Iterable[object], held: int = 0) -> int:
    """The floor in seconds since 1970 UTC; what cannot be read as a time is passed over."""
    return max([BUILT_AT, held, *(_seconds(text) for text in issued)])


def clock_is_plausible(now: datetime, floor: int) -> bool:
    """Whether a clock may be right that stands at ``now``."""
    return now.timestamp() >= floor - SKEW_SECONDS_MAX


def _seconds(text: object) -> int:
    try:
        issued = datetime.fromisoformat(str(text))
    except ValueError:
        return 0
    return int(issued.replace(tzinfo=issued.tzinfo or UTC).timestamp())
