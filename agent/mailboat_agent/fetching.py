"""Bringing a release's files to the device: room first, then each file from a patch or whole.

Nothing here records or decides, and every part of it may be done again: what has been fetched stays
for the next attempt.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from weakref import WeakValueDictionary

from mailboat_agent.artifacts.content_keys import ContentKeys
from mailboat_agent.artifacts.disk_room import DiskRoom, require_room
from mailboat_agent.artifacts.metered import Meter, Spending, TooMuchForPolicy
from mailboat_agent.artifacts.mirrored_source import ArtifactSource
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.background import in_background
from mailboat_agent.delta.choice import Offered
from mailboat_agent.delta.delivery import Tally
from mailboat_agent.delta.room import DeltaRoom
from mailboat_schemas.deltas import Source
from mailboat_schemas.documents.release import Variant
from mailboat_schemas.errors import DigestMismatch

FULL_DOWNLOADS_MAX = 2  # of a file whose bytes come out wrong, before it is called refused


NO_DELTAS = Offered()


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On what terms a release is fetched."""

    offered: Offered = NO_DELTAS
    class_is_metered: bool = False
    whole_file_bytes_max: int | None = None  # over a metered link, by policy
    urgent: bool = False  # it does not wait for a metered link's budget


NO_TERMS = Terms()


@dataclass(slots=True)
class Progress:
    """Bytes of a release that are on the device, and in all; for the report.

    ``tally`` goes on from one attempt to the next.
    """

    staged_bytes: int = 0
    total_bytes: int = 0
    tally: Tally = field(default_factory=Tally)
    form: str = ""  # how the file that is being fetched comes: "patch" or "full"
    later_bytes: int = 0  # of the files after it, if they come whole

    @property
    def rate_bytes_per_second(self) -> float:
        return self.tally.arrivals.rate_bytes_per_second

    @property
    def source(self) -> Source | None:
        return self.tally.arrivals.source

    @property
    def seconds_left(self) -> float | None:
        """Until everything is here, at the present rate; None if nobody knows."""
        arrivals = self.tally.arrivals
        if arrivals.seconds_left is None:
            return None
        return arrivals.seconds_left + self.later_bytes / arrivals.rate_bytes_per_second


class Fetching:
    def __init__(
        self,
        *,
        store: ReleaseStore,
        content_keys: ContentKeys,
        source: Callable[[], ArtifactSource],
        memory_budget_bytes: int,
        disk_bound_bytes: Callable[[], int | None],
        meter: Meter | None,
    ) -> None:
        """``meter`` is None where no link is metered."""
        self._store = store
        self._content_keys = content_keys
        self._source = source
        self._disk_bound_bytes = disk_bound_bytes
        self._meter = meter
        self._under_way: list[Progress] = []
        # By digest; one goes when nobody has it or waits for it.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.deltas = DeltaRoom(
            store=store,
            source=source,
            room_bytes=lambda: DiskRoom.of(store, disk_bound_bytes()).left_beside,
            memory_budget_bytes=memory_budget_bytes,
        )

    async def stage(self, variant: Variant, progress: Progress, terms: Terms = NO_TERMS) -> None:
        """Fetch everything of a variant that is lacking: content keys, then files, smallest first;
        from a patch where there is one, but not what is encrypted.

        Raises:
            Transient: network, disk, or a link's budget; what has been fetched stays.
            NotPermitted: the server does not accept this device, or gives it no content key.
            DigestMismatch: the server has other bytes than were signed.
        """
        for key_id in sorted(variant.content_keys):
            await self._content_keys.ensure(key_id)
        files = variant.artifacts
        progress.total_bytes = sum(files.values())
        progress.staged_bytes = sum(n for digest, n in files.items() if self._store.has(digest))
        lacking = {digest: n for digest, n in files.items() if not self._store.has(digest)}
        plain = {file.sha256 for file in variant.files if file.sealed is None}
        patches = [d.patch_length for d in terms.offered.deltas if d.target in lacking]
        self._require_room(lacking, max(patches, default=0))
        self._under_way.append(progress)
        try:
            progress.later_bytes = sum(lacking.values())
            for digest in sorted(lacking, key=lambda each: files[each]):
                progress.later_bytes -= files[digest]
                offered = terms.offered if digest in plain else NO_DELTAS
                async with self._alone(digest):
                    if self._store.has(digest):  # another model has brought it meanwhile
                        progress.staged_bytes += files[digest]
                        continue
                    await self._fetch(digest, files[digest], progress, terms, offered)
        finally:
            self._under_way = [each for each in self._under_way if each is not progress]

    @asynccontextmanager
    async def _alone(self, digest: str) -> AsyncIterator[None]:
        """Two models may share a file; two downloads of it would write into one another."""
        async with self._turns.setdefault(digest, asyncio.Lock()):
            yield

    def _require_room(self, lacking: dict[str, int], patch_bytes: int) -> None:
        """By the thread that decides: what gives way is nothing that it goes back to meanwhile.

        Raises:
            DiskFull
        """
        coming = sum(max(0, each.total_bytes - each.staged_bytes) for each in self._under_way)
        require_room(
            self._store,
            self._disk_bound_bytes(),
            lacking,
            coming_bytes=coming,
            patch_bytes=patch_bytes,
        )

    async def _fetch(
        self, digest: str, length: int, progress: Progress, terms: Terms, offered: Offered
    ) -> None:
        before = progress.staged_bytes
        meter = self._meter
        if meter is not None and not meter.applies(class_is_metered=terms.class_is_metered):
            meter = None
        spending = None if meter is None else Spending(meter, progress.tally.arrivals)

        def on_progress(bytes_here: int) -> None:
            progress.staged_bytes = before + bytes_here
            if spending is not None:
                spending.settle()

        try:
            progress.form = "patch"
            if not await self.deltas.bring(digest, length, offered, progress.tally, on_progress):
                progress.form = "full"
                if meter is not None and not terms.urgent:
                    most = terms.whole_file_bytes_max
                    if most is not None and length > most:
                        raise TooMuchForPolicy(length, most)
                    meter.require(length - self._store.staged_bytes(digest))
                await self._fetch_whole(digest, length, progress.tally, on_progress)
        finally:
            progress.form = ""
            if spending is not None and meter is not None:
                spending.settle()
                meter.save()
        progress.staged_bytes = before + length

    async def _fetch_whole(
        self, digest: str, length: int, tally: Tally, on_progress: Callable[[int], None]
    ) -> None:
        for attempt in range(1, FULL_DOWNLOADS_MAX + 1):
            target = self._store.staging_path(digest)
            hashed = None
            if self._store.staged_bytes(digest) != length:
                hashed = await self._source().fetch_artifact(
                    digest, length, target, on_progress, tally.arrivals
                )
                # Before it is admitted: what is lacking nowhere may end this errand at once.
                tally.fetched_bytes += length
            admit = partial(self._store.admit, digest, length, hashed)
            try:
                await in_background(admit, name="admit")
            except DigestMismatch:
                # The part is gone. It may have been begun under another server or cut badly.
                if attempt == FULL_DOWNLOADS_MAX:
                    raise
            else:
                return
