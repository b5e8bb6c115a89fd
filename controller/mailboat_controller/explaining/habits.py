"""How long until a device is heard of again, by its own habit. Pure.

A device that comes every night is waited for until tonight, one that is on the air is not waited
for at all. Of one that has stayed away longer than it ever did nothing better is known than that
it may stay away as long again.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

AWAY_MIN = timedelta(minutes=10)  # a shorter silence is no absence
CONTACTS_MIN = 3  # fewer are no habit


def expected_wait(contacts: Sequence[datetime], *, online: bool, now: datetime) -> timedelta | None:
    """The mean of what is left of its absences, as long as this one already is; None: unknown.

    Args:
        contacts: instants at which it was heard of, in any order.
    """
    if online:
        return timedelta()
    heard = sorted(each for each in contacts if each <= now)
    if len(heard) < CONTACTS_MIN:
        return None
    elapsed = now - heard[-1]
    gaps = [later - earlier for earlier, later in pairwise(heard)]
    longer = [gap - elapsed for gap in gaps if gap >= AWAY_MIN and gap > elapsed]
    if not longer:
        return max(elapsed, AWAY_MIN)
    return sum(longer, timedelta()) / len(longer)


def wait_for(waits: Sequence[timedelta | None], needed: int) -> timedelta | None:
    """Until ``needed`` of these have been heard of; None: too few have a habit to tell by."""
    known = sorted(wait for wait in waits if wait is not None)
    if needed <= 0:
        return timedelta()
    return known[needed - 1] if needed <= len(known) else None
