"""Which of the built deltas a class is told of, and in which order. Pure.

A device takes the first that it can use, so for each file the smallest comes first. Where there
are more than a message may carry, those stay that serve most devices.
"""

from collections.abc import Collection, Iterable

from mailboat_controller.store.deltas import DeltaRow, State
from mailboat_schemas.deltas import DELTAS_MAX, Delta


def deltas_for(
    rows: Iterable[DeltaRow],
    *,
    hardware_class: str,
    memory_bytes_max: int,
    files: Collection[str],
    deltas_max: int = DELTAS_MAX,
) -> tuple[Delta, ...]:
    """``files`` are the digests that the class's releases name, ``memory_bytes_max`` as in `Key`.

    The order, when there are too many: most devices first, to a power of two, so that a device
    more or less does not make a new message; then the smallest.
    """
    mine = {
        (row.key.target, row.key.base): row
        for row in rows
        if row.state is State.BUILT
        and row.offered
        and row.patch
        and row.key.target in files
        and row.key.memory_bytes_max == memory_bytes_max
    }
    kept = sorted(
        mine.values(),
        key=lambda row: (-_devices(row, hardware_class).bit_length(), row.patch_length, row.key),
    )[:deltas_max]
    kept.sort(key=lambda row: (row.patch_length, row.key))
    return tuple(_delta(row) for row in kept)


def _devices(row: DeltaRow, hardware_class: str) -> int:
    counted = [p["devices"] for p in row.purposes if p["hardware_class"] == hardware_class]
    return sum(counted)


def _delta(row: DeltaRow) -> Delta:
    return Delta(
        target=row.key.target,
        base=row.key.base or None,
        base_length=row.base_length,
        format=row.format,
        patch=row.patch,
        patch_length=row.patch_length,
        memory_bytes=row.memory_bytes,
    )
