"""How long a site's broker can keep what its devices say, and what memory that takes.

While the link is down, a device keeps at most a few batches on their way and then asks, again and
again, what became of them: that is nearly all that is queued. Whatever does not fit is dropped by
the broker, newest first, and acknowledged all the same. Nothing is lost by it: rows stay in the
devices' outboxes until the controller has them. The bound only costs a second sending.
"""

from dataclasses import dataclass

DAYS_DEFAULT = 7
DAYS_MAX = 60
DEVICES_DEFAULT = 20
DEVICES_MAX = 10_000
MEMORY_BYTES_MAX = 1 << 30
# An outbox that nothing answers asks after 7.5 minutes on average (15 at most, with full jitter),
# 190 times a day; births, wills and reports are few beside that.
MESSAGES_PER_DEVICE_DAY = 300
# A signed hello with the topic and what mosquitto 2.0 keeps about a message, rounded up.
MESSAGE_BYTES = 1_024
# Batches that wait for their acknowledgement: up to 8 of events and one of telemetry, at their
# largest (`journal/outbox.py`).
IN_FLIGHT_MESSAGES = 9
IN_FLIGHT_BYTES = 8 * 112 * 1024 + 256 * 1024
# Agents' own queues count too; never less than what one busy device may have on its way.
MESSAGES_MIN = 10_000
BYTES_MIN = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSize:
    """``max_queued_messages`` and ``max_queued_bytes`` of a site's broker, for each client."""

    messages: int
    bytes: int
    days: float  # of a cut until the first message is dropped


def queue_size(devices: int, days: int, *, memory_bytes: int = MEMORY_BYTES_MAX) -> QueueSize:
    """
    Args:
        devices: how many the site is to have.
        days: the longest cut that should cost no second sending.
        memory_bytes: what the machine can spare; the broker keeps its queue in memory.
    """
    day_bytes = devices * MESSAGES_PER_DEVICE_DAY * MESSAGE_BYTES
    in_flight_bytes = devices * IN_FLIGHT_BYTES
    messages = devices * (days * MESSAGES_PER_DEVICE_DAY + IN_FLIGHT_MESSAGES)
    wanted_bytes = max(BYTES_MIN, days * day_bytes + in_flight_bytes)
    granted_bytes = min(wanted_bytes, max(memory_bytes, BYTES_MIN))
    held_days = max(0.0, (granted_bytes - in_flight_bytes) / day_bytes) if devices else float(days)
    return QueueSize(
        # The broker counts payloads; what it keeps beside a small one is as much again.
        messages=min(max(MESSAGES_MIN, messages), granted_bytes // MESSAGE_BYTES),
        bytes=granted_bytes,
        days=min(float(days), held_days),
    )
