"""What takes long: fetching, trying, and loading a release. Each may be done twice.

Nothing here records or decides; the reconciler does, before and after.
"""

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from mailboat_agent.artifacts import sealed_store
from mailboat_agent.artifacts.content_keys import ContentKeys
from mailboat_agent.artifacts.metered import Meter
from mailboat_agent.artifacts.mirrored_source import ArtifactSource
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.background import in_background
from mailboat_agent.carrier.spool import ImportSpool
from mailboat_agent.delta.room import DeltaRoom
from mailboat_agent.fetching import NO_TERMS, Fetching, Progress, Terms
from mailboat_agent.sealed_memory import in_memory
from mailboat_agent.serving.lane import ServedRelease
from mailboat_agent.serving.runtime import Absence, Runtime
from mailboat_agent.serving.trial import GateFailed, TrialReport, run_trial
from mailboat_agent.serving.window import ServingStats
from mailboat_schemas.documents.release import File, FileRole, ReleaseDocument, Variant
from mailboat_schemas.errors import DigestMismatch
from mailboat_schemas.sealing import SealedDamaged

_log = logging.getLogger(__name__)


class Workbench:
    """The things that work is done with."""

    def __init__(
        self,
        *,
        store: ReleaseStore,
        content_keys: ContentKeys,
        source: Callable[[], ArtifactSource],
        runtime: Runtime,
        hardware_class: str,
        memory_budget_bytes: int,
        disk_budget_bytes: int | None = None,
        meter: Meter | None = None,
    ) -> None:
        """``source`` is asked for when something is to be fetched, not before."""
        self._store = store
        self._content_keys = content_keys
        self._runtime = runtime
        self._hardware_class = hardware_class
        self._memory_budget_bytes = memory_budget_bytes
        self.imports = ImportSpool(store.data_dir)
        self._fetching = Fetching(
            store=store,
            content_keys=content_keys,
            source=source,
            memory_budget_bytes=memory_budget_bytes,
            disk_budget_bytes=disk_budget_bytes,
            meter=meter,
        )

    @property
    def deltas(self) -> DeltaRoom:
        return self._fetching.deltas

    @deltas.setter
    def deltas(self, room: DeltaRoom) -> None:
        self._fetching.deltas = room

    async def stage(
        self, document: ReleaseDocument, progress: Progress, terms: Terms = NO_TERMS
    ) -> None:
        """Fetch what is lacking of this class's variant; raises as `Fetching.stage`."""
        variant = self._variant(document)
        await self._take_up_imported(variant)
        await self._fetching.stage(variant, progress, terms)

    async def _take_up_imported(self, variant: Variant) -> None:
        """What somebody carried here. A copy of no use costs nothing but a download."""
        for digest, length in variant.artifacts.items():
            if self._store.has(digest) or not self.imports.has(digest, length):
                continue
            move = partial(self.imports.move_into, self._store, digest, length)
            try:
                await in_background(move, name="take-up")
            except (DigestMismatch, DiskFailing) as error:
                _log.warning("An imported file is of no use: %s", error)

    def imported_bytes(self, document: ReleaseDocument | None) -> int:
        """How much of a release's files came by import, until its trial has begun."""
        if document is None:
            return 0
        return self.imports.imported_bytes(self._variant(document).artifacts)

    async def run_trial(self, document: ReleaseDocument) -> TrialReport:
        """
        Raises:
            GateFailed: final for this release here.
            DigestMismatch, ArtifactMissing: a file is damaged; it was set aside.
            Transient: the device, not the release.
        """
        variant = self._variant(document)
        self.imports.forget_origins(variant.artifacts.keys())  # `trial_started` has told them
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

    def in_memory(self, model: str) -> str:
        """Digest of the release that serves from verified bytes in memory; "" if none does."""
        return self._runtime.in_memory(model)

    def verified_copy(self, model: str, sha256: str) -> int | None:
        """The serving model's own verified bytes, to repair a file from. The caller closes it."""
        return self._runtime.verified_copy(model, sha256)

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
