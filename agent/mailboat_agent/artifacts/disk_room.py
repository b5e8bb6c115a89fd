"""Whether a release has room, before its first byte is fetched; and how full the disk is."""

from collections.abc import Mapping
from dataclasses import dataclass

from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_schemas.eligibility import DISK_MARGIN_BYTES
from mailboat_schemas.errors import DiskFull

# Left alone by downloads: state, journal and logs are written whatever is fetched. Eligibility
# counts with the same, so that it does not let in what would be refused here.
RESERVE_BYTES = DISK_MARGIN_BYTES
NEARLY_FULL_PERCENT = 90  # of the budget, or of what releases have and could have of the disk


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskRoom:
    """Sizes in bytes. ``budget`` is the operator's; None leaves all of the disk."""

    stored: int
    staged: int
    free: int  # on the file system
    budget: int | None

    @classmethod
    def of(cls, store: ReleaseStore, budget: int | None) -> "DiskRoom":
        return cls(
            stored=store.stored_bytes(),
            staged=store.staged_bytes_of_all(),
            free=store.free_bytes(),
            budget=budget,
        )

    @property
    def used(self) -> int:
        return self.stored + self.staged

    @property
    def left(self) -> int:
        """What may still be written; negative if it is too much already."""
        left = self.free - RESERVE_BYTES
        return left if self.budget is None else min(left, self.budget - self.used)

    @property
    def whole(self) -> int:
        return self.used + self.free if self.budget is None else self.budget

    @property
    def is_nearly_full(self) -> bool:
        return self.left * 100 < self.whole * (100 - NEARLY_FULL_PERCENT)


def require_room(
    store: ReleaseStore,
    budget: int | None,
    lacking: Mapping[str, int],
    coming_bytes: int,
) -> None:
    """
    Args:
        lacking: files by digest, and their lengths; what is staged of them has its room already.
        coming_bytes: what other downloads under way still need.

    Raises:
        DiskFull: it would not fit; says what is in the way.
    """
    if not lacking:
        return
    room = DiskRoom.of(store, budget)
    rest = sum(max(0, length - store.staged_bytes(each)) for each, length in lacking.items())
    needed = rest + coming_bytes
    if needed <= room.left:
        store.make_room(needed + RESERVE_BYTES)
        return
    if budget is not None and needed > budget - room.used:
        raise DiskFull(
            f"{needed} bytes more do not fit the disk_budget of {budget}, of which {room.used} "
            "are used.",
            next_step="raise disk_budget of the device or its class, or release something smaller; "
            "what serves goes on.",
        )
    raise DiskFull(
        f"{needed} bytes more do not fit the disk, which has {room.free} left and keeps "
        f"{RESERVE_BYTES} in reserve.",
        next_step="free space in the data directory's file system; what serves goes on.",
    )
