"""When a telling is tried again, and when a receiver is given up. Values in, values out."""

import email.utils
import random
import re
from datetime import UTC, datetime, timedelta

from mailboat_controller.store.webhooks import WebhookRow

RETRY_MIN = timedelta(seconds=5)
RETRY_MAX = timedelta(hours=6)
RETRY_DOUBLINGS_MAX = 20  # keeps the arithmetic in range
RETRY_FOR = timedelta(days=3)  # of one event: a weekend and the Monday after it
# A receiver that has said nothing good for so long, and so often, is switched off.
DISABLE_AFTER = timedelta(days=5)
DISABLE_FAILURES_MIN = 20
# For so long a receiver may ask to be left alone: RETRY_FOR has room for another attempt then.
RETRY_AFTER_MAX = timedelta(days=1)
ASKS_LATER = (429, 503)  # Too Many Requests, Service Unavailable: Retry-After counts with these
_SECONDS = re.compile(r"[0-9]{1,9}")
GONE = 410  # the receiver says itself that it is no more


def delay(attempts: int, rng: random.Random) -> timedelta:
    """After so many attempts (from 1) that failed in a row: exponential with half jitter, 5 s
    doubled each time up to 6 h."""
    doubled = RETRY_MIN * (1 << min(attempts - 1, RETRY_DOUBLINGS_MAX))
    return min(RETRY_MAX, doubled) * (0.5 + rng.random() / 2)


def asked(status: int | None, retry_after: str, now: datetime) -> timedelta:
    """For how long the receiver asks to be left alone, a day at most; zero: it asks for nothing
    that can be understood.

    Source: RFC 9110, 10.2.3 (seconds, or a date).
    """
    if status not in ASKS_LATER:
        return timedelta()
    if _SECONDS.fullmatch(retry_after):
        return min(RETRY_AFTER_MAX, timedelta(seconds=int(retry_after)))
    try:
        until = email.utils.parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return timedelta()
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return min(RETRY_AFTER_MAX, max(timedelta(), until - now))


def must_be_disabled(row: WebhookRow, status: int | None, now: datetime) -> str:
    """Why the receiver is switched off after this failure; empty: it is not."""
    if status == GONE:
        return "the receiver answered 410 Gone"
    since = row.failing_since
    if since is not None and now - since >= DISABLE_AFTER and row.failures >= DISABLE_FAILURES_MIN:
        return f"{row.failures} attempts failed in a row since {since:%Y-%m-%d %H:%M} UTC"
    return ""
