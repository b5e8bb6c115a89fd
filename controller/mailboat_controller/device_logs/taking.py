"""Log lines of a device, taken into the database: only those that somebody asked it for."""

from datetime import datetime

from mailboat_controller.ingest.opening import require_own
from mailboat_controller.store import log_requests
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.codec import decode
from mailboat_schemas.device_orders import LogExcerpt


def take_excerpt(tx: Transaction, device: str, payload: bytes, now: datetime) -> int:
    """Keep what is new of an opened payload; how many lines. An answer to nobody is passed over:
    it may be late, and a device cannot fill a database with what it was not asked for.

    Raises:
        MalformedPayload, PayloadTooLarge: not an excerpt. WrongTopic: another device's.
    """
    excerpt = decode(LogExcerpt, payload)
    require_own(device, excerpt.device)
    row = log_requests.find(tx, device, excerpt.request)
    if row is None or row.state(now) not in ("waiting", "answering"):
        return 0
    return log_requests.add_lines(
        tx, row, excerpt.lines, last=excerpt.last, withheld=excerpt.withheld, now=now
    )
