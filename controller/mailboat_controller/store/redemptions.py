"""Who has begun to fetch a release: evidence of its exposure that comes before any news of it.

Apart from the outcomes, which each partition of the ingest folds by itself: two who write the same
row would have to wait for each other.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from mailboat_controller.store.instants import to_ms
from mailboat_controller.store.redemption_tables import redemptions
from mailboat_controller.store.upsert import upsert

_c = redemptions.c


class Redeemed(NamedTuple):
    """A release document by its sha256, and which try of it."""

    digest: str
    retry_epoch: int


def note(tx: Connection, device: str, releases: Iterable[Redeemed], now: datetime) -> None:
    """The first time counts, however often it is noted and by however many processes."""
    rows = [
        {
            "digest": each.digest,
            "device": device,
            "retry_epoch": each.retry_epoch,
            "redeemed_at": to_ms(now),
        }
        for each in sorted(releases)
    ]
    if rows:
        tx.execute(upsert(tx, redemptions).on_conflict_do_nothing(), rows)


def of_release(tx: Connection, digest: str, *, since_epoch: int) -> dict[str, int]:
    """By device, when it began: milliseconds since 1970 UTC, in this retry epoch or a later one."""
    query = (
        select(_c.device, func.min(_c.redeemed_at))
        .where(_c.digest == digest, _c.retry_epoch >= since_epoch)
        .group_by(_c.device)
    )
    return {device: int(at) for device, at in tx.execute(query)}
