"""The delta room: brings one file of a release from a patch, or says why it has to come whole.

Each line durable before the next: the patch, hashed as it comes → the base, hashed as it is opened
→ the attempt counted → decoded into ``staging/<target>.delta``, hashed → renamed to what a finished
download is called → admitted to the store like one. A crash between any two leaves a patch that is
resumed, or a file under a name that nobody takes for a download.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from mailboat_agent.artifacts.arrivals import Arrivals
from mailboat_agent.artifacts.mirrored_source import ArtifactSource
from mailboat_agent.artifacts.part_file import Hashed, Progress
from mailboat_agent.artifacts.refusals import ServerBusy
from mailboat_agent.artifacts.release_store import OPEN_FLAGS, ReleaseStore
from mailboat_agent.atomic_file import disk_errors
from mailboat_agent.background import in_background
from mailboat_agent.delta.attempts import ATTEMPTS_MAX, GIVEN_UP, Attempts
from mailboat_agent.delta.choice import Circumstances, Offered, choose
from mailboat_agent.delta.decoding import Decoding, decode_into
from mailboat_agent.delta.delivery import FailedDelta, Tally
from mailboat_agent.delta.failure import DeltaFailed, Reason
from mailboat_schemas.deltas import Delta
from mailboat_schemas.errors import (
    ArtifactMissing,
    DigestMismatch,
    DownloadInterrupted,
    ServerUnavailable,
    TransferTooLong,
    TransferTooSlow,
)

# Transfers of one patch that end without one byte more than before. A link that is cut every few
# seconds brings some each time; a server that keeps back the patch alone shall not keep back the
# release.
BARREN_TRANSFERS_MAX = 3
_log = logging.getLogger(__name__)


class DeltaRoom:
    def __init__(
        self,
        *,
        store: ReleaseStore,
        source: Callable[[], ArtifactSource],
        room_bytes: Callable[[], int] | None = None,
        memory_budget_bytes: int,
        decoding: Callable[..., Decoding] = Decoding,
    ) -> None:
        """``room_bytes`` is what may still be written; all that the disk has, if not given.
        ``decoding`` is how to decode: its program and its patience are a matter of choice."""
        self._store = store
        self._source = source
        self._room_bytes = room_bytes or store.free_bytes
        self._memory_budget_bytes = memory_budget_bytes
        self._decoding = decoding
        self._attempts = Attempts(store.data_dir)
        self._barren: dict[str, int] = {}  # transfers without a new byte, by patch
        # Two at once would take the memory of two, which no delta has declared.
        self._one_at_a_time = asyncio.Lock()

    async def bring(
        self, target: str, length: int, offered: Offered, tally: Tally, on_progress: Progress
    ) -> bool:
        """Whether ``target`` is in the store now; if not, it is to be fetched whole.

        Raises:
            Transient: network or disk; what has been fetched of the patch stays.
            NotPermitted: the server does not accept this device.
        """
        delta = self._chosen(target, length, offered)
        if delta is None:
            return False
        made_before, from_base_before = tally.made_bytes, tally.from_base_bytes
        try:
            async with self._one_at_a_time:
                arrivals = tally.arrivals
                made = await self._make(delta, length, offered.desired, on_progress, arrivals)
                # Before it is admitted: with nothing lacking any more, the errand may be dropped.
                tally.fetched_bytes += delta.patch_length
                tally.made_bytes += length
                tally.from_base_bytes += length if delta.base is not None else 0
                await in_background(partial(self._admit, delta, length, made), name="admit")
        except DeltaFailed as error:
            _log.warning("%s", error)
            tally.made_bytes, tally.from_base_bytes = made_before, from_base_before
            tally.replace_failed(FailedDelta(target, delta.base, delta.patch, error))
            if isinstance(error.__cause__, ServerUnavailable):
                return False  # nobody else has it, mostly; then the patch keeps its chance
            tally.fetched_bytes += self._store.staged_bytes(delta.patch)
            await in_background(partial(self._give_up, delta, offered.desired), name="give-up")
            return False
        tally.forget_failed(delta.patch)
        return True

    def _chosen(self, target: str, length: int, offered: Offered) -> Delta | None:
        mine = [each for each in offered.deltas if each.target == target]
        if not mine or self._attempts.of(offered.desired, target) >= GIVEN_UP:
            return None
        at = Circumstances(
            target=target,
            target_length=length,
            staged_bytes=self._store.staged_bytes(target),
            free_bytes=self._room_bytes(),
            memory_budget_bytes=self._memory_budget_bytes,
        )
        return choose(mine, at, self._held_bytes)

    def _held_bytes(self, digest: str) -> int | None:
        try:
            return self._store.path(digest).stat().st_size
        except OSError:
            return None

    async def _make(
        self, delta: Delta, length: int, desired: str, on_progress: Progress, arrivals: Arrivals
    ) -> Hashed:
        if self._attempts.of(desired, delta.target) >= ATTEMPTS_MAX:
            problem = f"{ATTEMPTS_MAX} attempts did not come to an end"
            raise DeltaFailed(Reason.TRIED_BEFORE, problem)
        hashed = await self._fetch(delta, on_progress, arrivals)
        if hashed.sha256 != delta.patch:
            problem = f"its sha256 is {hashed.sha256}, signed was {delta.patch}"
            raise DeltaFailed(Reason.PATCH_ALTERED, problem)
        abandoned = threading.Event()
        work = partial(self._decode, delta, length, desired, hashed, abandoned)
        try:
            return await in_background(work, name="decode")
        finally:
            abandoned.set()  # the caller may have been told to stop; the thread notices

    async def _fetch(self, delta: Delta, on_progress: Progress, arrivals: Arrivals) -> Hashed:
        path, length = self._store.staging_path(delta.patch), delta.patch_length
        before = self._store.staged_bytes(delta.patch)
        try:
            hashed = await self._source().fetch_artifact(
                delta.patch, length, path, on_progress, arrivals
            )
        except ArtifactMissing as error:
            raise DeltaFailed(Reason.PATCH_MISSING, error.what) from error
        except TransferTooLong as error:
            raise DeltaFailed(Reason.PATCH_TOO_LONG, error.what) from error
        except ServerBusy:
            raise
        except (DownloadInterrupted, ServerUnavailable) as error:
            # A drip grows, too, and would go on for ever.
            dripped = isinstance(error, TransferTooSlow)
            grew = self._store.staged_bytes(delta.patch) > before and not dripped
            barren = 0 if grew else self._barren.get(delta.patch, 0) + 1
            self._barren = {delta.patch: barren}
            if barren >= BARREN_TRANSFERS_MAX:
                raise DeltaFailed(Reason.PATCH_INTERRUPTED, error.what) from error
            raise
        self._barren.clear()
        return hashed

    # --- blocking --------------------------------------------------------------------------------

    def _decode(
        self, delta: Delta, length: int, desired: str, hashed: Hashed, abandoned: threading.Event
    ) -> Hashed:
        """The outcome, durable under its name for unfinished ones and of the right hash.

        Raises:
            DeltaFailed, DiskFull, DiskFailing
        """
        patch_fd = self._open_patch(delta, hashed)
        try:
            base_fd = self._open_base(delta)
            try:
                self._attempts.count(desired, delta.target)
                made = decode_into(
                    self._output(delta.target),
                    self._decoding(
                        base_fd=base_fd,
                        base_length=delta.base_length,
                        patch_fd=patch_fd,
                        target_length=length,
                        memory_bytes=delta.memory_bytes,
                        format=delta.format,
                    ),
                    abandoned,
                )
            finally:
                if base_fd is not None:
                    os.close(base_fd)
        finally:
            os.close(patch_fd)
        if made.sha256 != delta.target:
            problem = f"it makes a file with sha256 {made.sha256}, signed was {delta.target}"
            raise DeltaFailed(Reason.OUTPUT_DIFFERS, problem)
        return made

    def _open_patch(self, delta: Delta, hashed: Hashed) -> int:
        with disk_errors("opening a patch"):
            descriptor = os.open(self._store.staging_path(delta.patch), OPEN_FLAGS)
        if Hashed.of(descriptor, hashed.sha256) != hashed:
            os.close(descriptor)
            raise DeltaFailed(Reason.PATCH_ALTERED, "somebody wrote to it after it was hashed")
        return descriptor

    def _open_base(self, delta: Delta) -> int | None:
        if delta.base is None:
            return None
        try:
            descriptor = self._store.open_verified(delta.base)
        except (DigestMismatch, ArtifactMissing) as error:
            raise DeltaFailed(Reason.BASE_DAMAGED, error.what) from error
        if os.fstat(descriptor).st_size != delta.base_length:
            os.close(descriptor)
            problem = f"file {delta.base[:16]} is not {delta.base_length} bytes long"
            raise DeltaFailed(Reason.BASE_DAMAGED, problem)
        return descriptor

    def _admit(self, delta: Delta, length: int, made: Hashed) -> None:
        with disk_errors("keeping a patch's outcome"):
            self._output(delta.target).replace(self._store.staging_path(delta.target))
        _unlink(self._store.staging_path(delta.patch))
        try:
            self._store.admit(delta.target, length, made)
        except DigestMismatch as error:  # somebody wrote to it since it was hashed
            raise DeltaFailed(Reason.OUTPUT_DIFFERS, error.what) from error

    def _output(self, target: str) -> Path:
        """Not called like a download: what a crash leaves here is garbage, never resumed."""
        return self._store.staging_path(target).with_suffix(".delta")

    def _give_up(self, delta: Delta, desired: str) -> None:
        _unlink(self._store.staging_path(delta.patch))
        _unlink(self._output(delta.target))
        self._attempts.give_up(desired, delta.target)


def _unlink(path: Path) -> None:
    """Best effort: what stays is garbage."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
