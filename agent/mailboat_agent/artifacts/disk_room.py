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
    """Sizes in bytes. ``budget`` is the operator's; None leaves all of the disk. ``gives_way`` is
    of releases that go as soon as their room is needed: it counts as free, and not as stored."""

    stored: int
    staged: int
    free: int  # on the file system
    budget: int | None
    gives_way: int = 0

    @classmethod
    def of(cls, store: ReleaseStore, budget: int | None) -> "DiskRoom":
        gives_way = store.gives_way.size_bytes()
        return cls(
            stored=store.stored_bytes() - gives_way,
            staged=store.staged_bytes_of_all(),
            free=store.free_bytes() + gives_way,
            budget=budget,
            gives_way=gives_way,
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

    def in_the_way(self, needed: int, evidence: int) -> int:
        """How much of what gives way has to go before so much more can be written. ``evidence`` of
        damage counts as free on the disk, and goes after it."""
        short = needed + evidence + RESERVE_BYTES - (self.free - self.gives_way)
        if self.budget is not None:
            short = max(short, needed + self.used + self.gives_way - self.budget)
        return max(0, min(self.gives_way, short))

    @property
    def left_beside(self) -> int:
        """What may be written with nothing giving way."""
        return self.left - self.gives_way


def keep_within(store: ReleaseStore, budget: int | None) -> int:
    """What gives way goes when somebody else takes the disk, or the budget was lowered; returns the
    bytes freed."""
    if not store.gives_way.of():
        return 0
    evidence = store.set_aside.evidence_bytes()
    return store.gives_way.make_room(DiskRoom.of(store, budget).in_the_way(0, evidence))


def require_room(
    store: ReleaseStore,
    budget: int | None,
    lacking: Mapping[str, int],
    coming_bytes: int,
    patch_bytes: int = 0,
) -> None:
    """
    Args:
        lacking: files by digest, and their lengths; what is staged of them has its room already.
        coming_bytes: what other downloads under way still need.
        patch_bytes: of a patch that spares a download, if it fits beside: what gives way does so
            for that, too.

    Raises:
        DiskFull: it would not fit; says what is in the way.
    """
    if not lacking:
        return
    room, evidence = DiskRoom.of(store, budget), store.set_aside.evidence_bytes()
    rest = sum(max(0, length - store.staged_bytes(each)) for each, length in lacking.items())
    needed = rest + coming_bytes
    if needed <= room.left:  # otherwise it would give way for nothing
        beside = patch_bytes if needed + patch_bytes <= room.left else 0
        if store.gives_way.make_room(room.in_the_way(needed + beside, evidence)):
            room = DiskRoom.of(store, budget)
    if needed <= room.left_beside:
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
