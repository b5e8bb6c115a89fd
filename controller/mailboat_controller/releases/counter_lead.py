"""How far a device's claim may lift the counter of its class's manifests. Pure.

Devices tell which counter they have seen. After a restored backup ours may be behind theirs, and
they would refuse everything; so we go on from theirs. But a device may claim any number, and those
that are away take none that is `VERSION_STEP_MAX` (2^20) ahead of their own: whoever could lift the
counter by much, again and again, would shut them out for good. So a claim counts as far as so many
manifests can have been published since the newest that we know of.
"""

from datetime import datetime, timedelta

# Of a database that is empty or years old; half of what a device still takes at one stroke.
COUNTER_LEAD_MAX = 500_000
COUNTER_LEAD_MIN = 60  # a minute of manifests, decided on about once a second
COUNTER_LEAD_EVERY = timedelta(seconds=10)  # one more: no fleet is told something new more often
# One compromised device may claim a new counter every second; it must not make us send the same
# manifest to its whole class each time. Whatever changes is sent at once, counted from there.
LEAD_REST = timedelta(minutes=10)


def counter_lead(published_at: datetime | None, now: datetime) -> int:
    """
    Args:
        published_at: of the newest manifest that we know of; None: we know of none.
    """
    if published_at is None:
        return COUNTER_LEAD_MAX
    since = max(timedelta(), now - published_at)
    return min(COUNTER_LEAD_MAX, COUNTER_LEAD_MIN + since // COUNTER_LEAD_EVERY)
