"""Which process takes in what a device says: a fixed share of the devices for each. Pure.

A share is found by the device's id alone, so that it stays where it is whoever comes and goes.
"""

import hashlib
from collections.abc import Callable

# Each process hears all messages of the fleet and drops those of the others, which costs it and the
# broker some tens of microseconds each; beyond so many, hearing costs more than taking in.
PARTITIONS_MAX = 16
_PREFIX = b"mailboat ingest partition\0"
_LEVELS_BEFORE_DEVICE = 6  # mb/1/{fleet}/site/{site}/dev/


def partition_of(device: str, partitions: int) -> int:
    """From 0 up to one less than ``partitions``; about as many devices in each."""
    digest = hashlib.sha256(_PREFIX + device.encode()).digest()
    return int.from_bytes(digest[:8], "big") % partitions


def device_of(topic: str) -> str | None:
    """The device whose topic this is; None for what is no device's. Cheap: nothing is checked."""
    levels = topic.split("/", _LEVELS_BEFORE_DEVICE + 1)
    if len(levels) <= _LEVELS_BEFORE_DEVICE + 1 or levels[_LEVELS_BEFORE_DEVICE - 1] != "dev":
        return None
    return levels[_LEVELS_BEFORE_DEVICE]


def share(partition: int, partitions: int) -> Callable[[str], bool]:
    """Whether a topic is this partition's. What is no device's goes to the first, so that garbage
    is set aside once."""

    def owns(topic: str) -> bool:
        device = device_of(topic)
        return partition == (0 if device is None else partition_of(device, partitions))

    return owns


def client_name(partition: int) -> str:
    """Client id, user name and certificate name of a partition's process at the broker."""
    return f"ingest-{partition}"
