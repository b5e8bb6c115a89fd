"""What takes long: fetching, trying, and loading a release. Each may be done twice.

Nothing here records or decides; the reconciler does, before and after.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailboat_agent.background import in_background
from mailboat_agent.release_store import ReleaseStore
from mailboat_agent.serving.lane import ServedRelease
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.serving.trial import GateFailed, TrialReport, run_trial
from mailboat_agent.serving.window import ServingStats
from mailboat_schemas.documents.release import FileRole, ReleaseDocument, Variant
from mailboat_schemas.errors import DigestMismatch

if TYPE_CHECKING:
    from mailboat_agent.download import HttpsSource

FULL_DOWNLOADS_MAX = 2  # of a file whose bytes come out wrong, before it is called refused


@dataclass(slots=True)
class Progress:
    """Bytes of a release that are on the device, and in all; for the report."""

    staged_bytes: int = 0
    total_bytes: int = 0


class Workbench:
    """The things that work is done with."""

    def __init__(
        self,
        *,
        store: ReleaseStore,
        source: "Callable[[], HttpsSource]",
        runtime: Runtime,
        hardware_class: str,
        memory_budget_bytes: int,
    ) -> None:
        """``source`` is asked for when something is to be fetched, not before."""
        self._store = store
        self._source = source
        self._runtime = runtime
        self._hardware_class = hardware_class
        self._memory_budget_bytes = memory_budget_bytes

    async def stage(self, document: ReleaseDocument, progress: Progress) -> None:
        """Fetch every file of this class's variant that the store lacks, smallest first.

        Raises:
            Transient: network or disk; what has been fetched stays for the next attempt.
            NotPermitted: the server does not accept this device.
            DigestMismatch: the server has other bytes than were signed.
        """
        files = {file.sha256: file.length for file in self._variant(document).files}
        progress.total_bytes = sum(files.values())
        progress.staged_bytes = sum(n for digest, n in files.items() if self._store.has(digest))
        missing = [digest for digest in files if not self._store.has(digest)]
        for digest in sorted(missing, key=lambda each: files[each]):
            await self._fetch(digest, files[digest], progress)

    async def _fetch(self, digest: str, length: int, progress: Progress) -> None:
        before = progress.staged_bytes

        def on_progress(bytes_here: int) -> None:
            progress.staged_bytes = before + bytes_here

        for attempt in range(1, FULL_DOWNLOADS_MAX + 1):
            target = self._store.staging_path(digest)
            if self._store.staged_bytes(digest) != length:
                await self._source().fetch_artifact(digest, length, target, on_progress)
            try:
                await in_background(lambda: self._store.admit(digest, length), name="admit")
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
                return run_trial(
                    model_fd=self._open(variant.model_file.sha256, opened),
                    golden_fd=None if golden is None else self._open(golden.sha256, opened),
                    interface=document.interface,
                    variant=variant,
                    memory_limit_bytes=self._memory_budget_bytes,
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
                        model_fd=self._open(variant.model_file.sha256, opened),
                        memory_limit_bytes=self._memory_budget_bytes,
                    )
                )

        await in_background(serve, name=f"load-{document.model}")

    async def stop(self, model: str) -> None:
        await in_background(lambda: self._runtime.stop(model), name=f"stop-{model}")

    def serving(self, model: str) -> ServingStats | None:
        """The release that serves now, with its counters since it began to."""
        return self._runtime.snapshot(model)

    def _open(self, digest: str, opened: ExitStack) -> int:
        descriptor = self._store.open_verified(digest)
        opened.callback(os.close, descriptor)
        return descriptor

    def _variant(self, document: ReleaseDocument) -> Variant:
        variant = document.variant_for(self._hardware_class)
        if variant is None:  # eligibility has asked before; a document cannot lose one
            raise GateFailed("class_mismatch", f"No variant for {self._hardware_class}.")
        return variant
