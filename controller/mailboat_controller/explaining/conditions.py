"""What a device tells of itself that somebody should look at: the values of ``condition``.

The figures and the alerts count the very same devices (`store.fleet_counts`), so that whoever sees
"3 devices" finds the three.
"""

from collections.abc import Container
from datetime import datetime
from enum import StrEnum

from mailboat_controller.store import fleet_counts
from mailboat_controller.store.devices import DeviceRow
from mailboat_controller.store.fleet_counts import DOUBLED_LATELY, SAID_FOR, SILENT


class Condition(StrEnum):
    DISK_LOW = "disk-low"
    CLOCK_WRONG = "clock-wrong"
    DOUBLED = "doubled"  # two devices seem to have its id
    SILENT = "silent"  # for a day, though its class is expected to speak


def conditions_of(row: DeviceRow, silence_is_expected: Container[str], now: datetime) -> set[str]:
    """
    Args:
        silence_is_expected: hardware classes whose devices nobody misses.
    """
    if row.revoked:
        return set()
    heard = row.last_seen_at
    found = set()
    if heard is not None and heard >= now - SAID_FOR:
        free_bytes = (row.report or {}).get("facts", {}).get("disk_free_bytes")
        if free_bytes is not None and free_bytes < fleet_counts.DISK_LOW_BYTES:
            found.add(Condition.DISK_LOW.value)
        if abs(row.clock_offset_ms or 0) > fleet_counts.CLOCK_OFFSET_MS_MAX:
            found.add(Condition.CLOCK_WRONG.value)
    if row.doubled_at is not None and row.doubled_at >= now - DOUBLED_LATELY:
        found.add(Condition.DOUBLED.value)
    missed = row.hardware_class not in silence_is_expected
    if missed and (heard or row.enrolled_at) < now - SILENT:
        found.add(Condition.SILENT.value)
    return found
