"""What takes long: fetching, trying, and loading a release. Each may be done twice.

Nothing here records or decides; the reconciler does, before and after.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from mailboat_agent.artifacts import sealed_store
from mailboat_agent.artifacts.content_keys import ContentKeys
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.background import in_background
from mailboat_agent.delta.choice import Offered
from mailboat_agent.delta.delivery import Tally
from mailboat_agent.delta.room import DeltaRoom
from mailboat_agent.sealed_memory import in_memory
from mailboat_agent.serving.lane import ServedRelease
from mailboat_agent.serving.runtime import Absence, Runtime
from mailboat_agent.serving.trial import GateFailed, TrialReport, run_trial
from mailboat_agent.serving.window import ServingStats
from mailboat_schemas.documents.release import File, FileRole, ReleaseDocument, Variant
from mailboat_schemas.errors import DigestMismatch
from mailboat_schemas.sealing import SealedDamaged

if TYPE_CHECKING:
    from mailboat_agent.artifacts.download import HttpsSource

NO_DELTAS = Offered()
FULL_DOWNLOADS_MAX = 2  # of a file whose bytes come out wrong, before it is called refused


@dataclass(slots=True)
class Progress:
    """Bytes of a release that are on the device, and in all; for the report.

    ``tally`` goes on from one attempt to the next.
    """

    staged_bytes: int = 0
    total_bytes: int = 0
    tally: Tally = field(default_factory=Tally)


class Workbench:
    """The things that work is done with."""

    def __init__(
        self,
        *,
        store: ReleaseStore,
        content_keys: ContentKeys,
        source: "Callable[[], HttpsSource]",
        runtime: Runtime,
        hardware_class: str,
        memory_budget_bytes: int,
    ) -> None:
        """``source`` is asked for when something is to be fetched, not before."""
        self._store = store
        self._content_keys = content_keys
        self._source = source
        self._runtime = runtime
        self._hardware_class = hardware_class
        self._memory_budget_bytes = memory_budget_bytes
        self.deltas = DeltaRoom(store=store, source=source, memory_budget_bytes=memory_budget_bytes)

    async def stage(
        self, document: ReleaseDocument, progress: Progress, offered: Offered = NO_DELTAS
    ) -> None:
        """Fetch everything of this class's variant that is lacking: content keys, then files,
        smallest first; from a patch where there is one, but not what is encrypted.

        Raises:
            Transient: network or disk; what has been fetched stays for the next attempt.
            NotPermitted: the server does not accept this device, or gives it no content key.
            DigestMismatch: the server has other bytes than were signed.
        """
        variant = self._variant(document)
        for key_id in sorted(variant.content_keys):
            await self._content_keys.ensure(key_id)
        files = variant.artifacts
        progress.total_bytes = sum(files.values())
        progress.staged_bytes = sum(n for digest, n in files.items() if self._store.has(digest))
        missing = [digest for digest in files if not self._store.has(digest)]
        plain = {file.sha256 for file in variant.files if file.sealed is None}
        for digest in sorted(missing, key=lambda each: files[each]):
            patches = offered if digest in plain else NO_DELTAS
            await self._fetch(digest, files[digest], progress, patches)

    async def _fetch(self, digest: str, length: int, progress: Progress, offered: Offered) -> None:
        before = progress.staged_bytes

        def on_progress(bytes_here: int) -> None:
            progress.staged_bytes = before + bytes_here

        if await self.deltas.bring(digest, length, offered, progress.tally, on_progress):
            progress.staged_bytes = before + length
            return
        for attempt in range(1, FULL_DOWNLOADS_MAX + 1):
            target = self._store.staging_path(digest)
            hashed = None
            if self._store.staged_bytes(digest) != length:
                hashed = await self._source().fetch_artifact(digest, length, target, on_progress)
                # Before it is admitted: what is lacking nowhere may end this errand at once.
                progress.tally.fetched_bytes += length
            admit = partial(self._store.admit, digest, length, hashed)
            try:
                await in_background(admit, name="admit")
            except DigestMismatch:
                # The part is gone. It may have been begun under another server or cut badly.
                if attempt == FULL_DOWNLOADS_MAX:
                    raise
            else:
                progress.staged_bytes = before + length
                return

    async def run_trial(self, document: ReleaseDocument) -> TrialReport:
        """
        Raises:
            GateFailed: final for this release here.
            DigestMismatch, ArtifactMissing: a file is damaged; it was set aside.
            Transient: the device, not the release.
        """
        variant = self._variant(document)
        golden = variant.file_of_role(FileRole.GOLDEN)

        def trial() -> TrialReport:
            with ExitStack() as opened:
                try:
                    model_fd = self._open(variant.model_file, opened)
                    golden_fd = None if golden is None else self._open(golden, opened)
                except SealedDamaged as error:
                    # What was signed does not open to what was signed: no retry cures that.
                    raise GateFailed(error.code, error.what) from error
                return run_trial(
                    model_fd=model_fd,
                    golden_fd=golden_fd,
                    interface=document.interface,
                    variant=variant,
                    memory_limit_bytes=self._memory_budget_bytes,
                    launch=self._runtime.launch,
                )

        return await in_background(trial, name=f"trial-{document.model}")

    async def serve(self, document: ReleaseDocument, digest: str) -> None:
        """Load it beside what serves, then switch. Serving it already does nothing.

        Raises:
            ReleaseRejected: it cannot be loaded, or its file is damaged and was set aside.
            Transient: the device, not the release.
        """
        variant = self._variant(document)

        def serve() -> None:
            with ExitStack() as opened:
                self._runtime.serve(
                    ServedRelease(
                        model=document.model,
                        version=document.version,
                        digest=digest,
                        interface=document.interface,
                        variant=variant,
                        model_fd=self._open(variant.model_file, opened),
                        memory_limit_bytes=self._memory_budget_bytes,
                    )
                )

        await in_background(serve, name=f"load-{document.model}")

    def bar(self, model: str, digests: frozenset[str]) -> None:
        """From this moment on none of these serves; one that does is cut off. Does not block."""
        self._runtime.bar(model, digests)

    def explain_absence(self, model: str, absence: Absence | None) -> None:
        self._runtime.explain_absence(model, absence)

    async def stop(self, model: str) -> None:
        await in_background(lambda: self._runtime.stop(model), name=f"stop-{model}")

    def serving(self, model: str) -> ServingStats | None:
        """The release that serves now, with its counters since it began to."""
        return self._runtime.snapshot(model)

    def _open(self, file: File, opened: ExitStack) -> int:
        if file.sealed is None:
            descriptor = in_memory(self._store.open_verified(file.sha256), file.sha256)
        else:
            descriptor = sealed_store.open_into_memory(
                self._store, self._content_keys, file, file.sealed
            )
        opened.callback(os.close, descriptor)
        return descriptor

    def _variant(self, document: ReleaseDocument) -> Variant:
        variant = document.variant_for(self._hardware_class)
        if variant is None:  # eligibility has asked before; a document cannot lose one
            raise GateFailed("class_mismatch", f"No variant for {self._hardware_class}.")
        return variant
