"""Bridges that come and go: a bad line, one kit on two machines, or somebody who plays with us.

Each change is told, until there are too many of them: a site's machine that was taken may tell
changes as fast as it likes, and a log is a disk.
"""

from collections import deque
from datetime import datetime, timedelta
from enum import Enum, auto

CHANGES_TOLD_MAX = 12  # of one site, within:
WITHIN = timedelta(minutes=10)


class Telling(Enum):
    EACH = auto()
    TOO_MANY = auto()  # this one is told as the last for now
    NONE = auto()


class Flapping:
    """For one thread at a time. Holds an entry for each site of the registry that was heard of."""

    def __init__(self) -> None:
        self._told: dict[str, deque[datetime]] = {}

    def changed(self, site: str, at: datetime) -> Telling:
        """How to tell that a site was cut off or connected at this instant."""
        told = self._told.setdefault(site, deque(maxlen=CHANGES_TOLD_MAX + 1))
        while told and not timedelta() <= at - told[0] < WITHIN:
            told.popleft()
        if len(told) > CHANGES_TOLD_MAX:
            return Telling.NONE
        told.append(at)
        return Telling.TOO_MANY if len(told) > CHANGES_TOLD_MAX else Telling.EACH
