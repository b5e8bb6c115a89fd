"""When a telling is tried again, and when a receiver is given up. Values in, values out."""

import random
from datetime import datetime, timedelta

from mailboat_controller.store.webhooks import WebhookRow

RETRY_MIN = timedelta(seconds=5)
RETRY_MAX = timedelta(hours=6)
RETRY_DOUBLINGS_MAX = 20  # keeps the arithmetic in range
RETRY_FOR = timedelta(days=3)  # of one event: a weekend and the Monday after it
# A receiver that has said nothing good for so long, and so often, is switched off.
DISABLE_AFTER = timedelta(days=5)
DISABLE_FAILURES_MIN = 20
GONE = 410  # the receiver says itself that it is no more


def delay(attempts: int, rng: random.Random) -> timedelta:
    """After so many attempts (from 1) that failed in a row: exponential with half jitter, 5 s
    doubled each time up to 6 h."""
    doubled = RETRY_MIN * (1 << min(attempts - 1, RETRY_DOUBLINGS_MAX))
    return min(RETRY_MAX, doubled) * (0.5 + rng.random() / 2)


def must_be_disabled(row: WebhookRow, status: int | None, now: datetime) -> str:
    """Why the receiver is switched off after this failure; empty: it is not."""
    if status == GONE:
        return "the receiver answered 410 Gone"
    since = row.failing_since
    if since is not None and now - since >= DISABLE_AFTER and row.failures >= DISABLE_FAILURES_MIN:
        return f"{row.failures} attempts failed in a row since {since:%Y-%m-%d %H:%M} UTC"
    return ""
