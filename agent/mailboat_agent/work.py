"""What takes long: fetching, trying, and loading a release. Each may be done twice.

Nothing here records or decides; the reconciler does, before and after.
"""

import logging
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from mailboat_agent.artifacts.content_keys import ContentKeys
from mailboat_agent.artifacts.metered import Meter
from mailboat_agent.artifacts.mirrored_source import ArtifactSource
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.background import in_background
from mailboat_agent.busy import NEVER_BUSY, Busy
from mailboat_agent.carrier.spool import ImportSpool
from mailboat_agent.delta.room import DeltaRoom
from mailboat_agent.fetching import NO_TERMS, Fetching, Progress, Terms
from mailboat_agent.serving.feedback import Posted
from mailboat_agent.serving.reference_file import read_reference
from mailboat_agent.serving.revocable_launch import RevocableLaunch
from mailboat_agent.serving.runtime import Absence, Runtime
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.shadowing import shadow_candidate
from mailboat_agent.serving.trial import GateFailed, TrialReport, run_trial
from mailboat_agent.serving.trial_evidence import TrialEvidence
from mailboat_agent.serving.window import ServingStats
from mailboat_agent.update.soak import Judgement, Verdict
from mailboat_agent.verified_files import VerifiedFiles
from mailboat_schemas.class_budgets import ClassBudgets, no_budgets
from mailboat_schemas.documents.live_gates import Shadow
from mailboat_schemas.documents.release import (
    FileRole,
    ReleaseDocument,
    Variant,
    document_digest,
)
from mailboat_schemas.errors import (
    DigestMismatch,
    MalformedPayload,
    PayloadTooLarge,
)
from mailboat_schemas.live_figures import Shift
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
        disk_bound_bytes: Callable[[], int | None] = lambda: None,
        budgets: Callable[[], ClassBudgets] = no_budgets,
        meter: Meter | None = None,
        busy: Busy = NEVER_BUSY,
    ) -> None:
        """``source`` is asked for when something is to be fetched, not before; ``budgets`` of the
        class bind a trial and not what serves."""
        self.store = store
        self._files = VerifiedFiles(store, content_keys)
        self.runtime = runtime
        self._hardware_class = hardware_class
        self._memory_budget_bytes = memory_budget_bytes
        self._budgets = budgets
        self.busy = busy
        self.imports = ImportSpool(store.data_dir)
        self.evidence = TrialEvidence(store.data_dir / "evidence")
        self._fetching = Fetching(
            store=store,
            content_keys=content_keys,
            source=source,
            memory_budget_bytes=memory_budget_bytes,
            disk_bound_bytes=disk_bound_bytes,
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
        variant = self.variant_of(document)
        await self._take_up_imported(variant)
        await self._fetching.stage(variant, progress, terms)

    async def _take_up_imported(self, variant: Variant) -> None:
        """What somebody carried here. A copy of no use costs nothing but a download."""
        for digest, length in variant.artifacts.items():
            if self.store.has(digest) or not self.imports.has(digest, length):
                continue
            move = partial(self.imports.move_into, self.store, digest, length)
            try:
                await in_background(move, name="take-up")
            except (DigestMismatch, DiskFailing) as error:
                _log.warning("An imported file is of no use: %s", error)

    def imported_bytes(self, document: ReleaseDocument | None) -> int:
        """How much of a release's files came by import, until its trial has begun."""
        if document is None:
            return 0
        return self.imports.imported_bytes(self.variant_of(document).artifacts)

    async def run_trial(self, document: ReleaseDocument) -> TrialReport:
        """
        Raises:
            GateFailed: final for this release here.
            DigestMismatch, ArtifactMissing: a file is damaged; it was set aside.
            Transient: the device, not the release.
        """
        variant = self.variant_of(document)
        self.imports.forget_origins(variant.artifacts.keys())  # `trial_started` has told them
        golden = variant.file_of_role(FileRole.GOLDEN)
        reference = variant.file_of_role(FileRole.REFERENCE)
        launch = RevocableLaunch(self.runtime.launch.worker_socket, self.runtime.launch.user)
        budgets = self._budgets()

        def trial() -> TrialReport:
            with ExitStack() as opened:
                try:
                    model_fd = self._files.open(variant.model_file, opened)
                    golden_fd = None if golden is None else self._files.open(golden, opened)
                    bundle = self._files.bundle(variant)
                    if reference is not None:
                        opened_fd, drift = (
                            self._files.open(reference, opened),
                            variant.health.soak.drift,
                        )
                        read_reference(opened_fd, reference.sha256, drift)
                except SealedDamaged as error:
                    # What was signed does not open to what was signed: no retry cures that.
                    raise GateFailed(error.code, error.what) from error
                except (MalformedPayload, PayloadTooLarge) as error:
                    raise GateFailed("reference_unreadable", error.what) from error
                return run_trial(
                    model_fd=model_fd,
                    golden_fd=golden_fd,
                    interface=document.interface,
                    variant=variant,
                    memory_limit_bytes=self._memory_budget_bytes,
                    budgets=budgets,
                    launch=launch,
                    bundle=bundle,
                    serving=self._copy_of_serving(document, variant, opened),
                )

        try:
            name, abandon = f"trial-{document.model}", launch.give_up_soon
            return await in_background(trial, name=name, abandon=abandon)
        except GateFailed as error:
            self._keep(document, error)
            raise

    def _keep(self, document: ReleaseDocument, failed: GateFailed) -> None:
        """Why a release failed, beside the event that tells of it."""
        digest = document_digest(document.canonical_bytes())
        kept = self.evidence.keep(document.model, document.version, digest, failed)
        if kept:
            failed.evidence["kept"] = kept

    async def run_shadow(
        self, document: ReleaseDocument, digest: str, tell: Callable[[str], None]
    ) -> Judgement:
        """Mirror live requests to it until it is judged; ``tell`` is given how far it is.

        Raises: as `run_trial`.
        """
        variant, stop = self.variant_of(document), threading.Event()
        shadow = variant.health.shadow

        if shadow is None:  # decide() has asked before
            return Judgement(Verdict.PASSED, "its document asks for no shadow")

        def mirror(shadow: Shadow = shadow) -> Judgement:
            with ExitStack() as opened:
                release = self._released(document, digest, variant, opened)
                return shadow_candidate(self.runtime, release, shadow, stop=stop, tell=tell)

        try:
            return await in_background(mirror, name=f"shadow-{document.model}")
        except GateFailed as error:
            self._keep(document, error)
            raise
        finally:
            stop.set()

    async def serve(
        self, document: ReleaseDocument, digest: str, *, can_wait: bool = False
    ) -> None:
        """Load it beside what serves, then switch. Serving it already does nothing.

        ``can_wait``: for the application, as long as it says that it is busy.

        Raises:
            ReleaseRejected: it cannot be loaded, or its file is damaged and was set aside.
            Transient: the device, not the release.
        """
        variant = self.variant_of(document)
        before = self.serving(document.model)
        if can_wait and before is not None and before.digest != digest:
            await self.busy.passes(document.model, lambda: bool(self.serving(document.model)))

        def serve() -> None:
            with ExitStack() as opened:
                reference = self._files.reference(variant, opened)
                self.runtime.serve(self._released(document, digest, variant, opened))
                serving = self.runtime.snapshot(document.model)
                stay = 0 if serving is None else serving.serial
                self.runtime.live.compare_with(document.model, digest, reference, stay=stay)

        await in_background(serve, name=f"load-{document.model}")

    def waits_because(self, model: str) -> str:
        """Why a switch that could be made is not made yet; empty if none waits."""
        return self.busy.because(model)

    def bar(self, model: str, digests: frozenset[str]) -> None:
        """From this moment on none of these serves; one that does is cut off. Does not block."""
        self.runtime.bar(model, digests)

    def explain_absence(self, model: str, absence: Absence | None) -> None:
        self.runtime.explain_absence(model, absence)

    def note_fallback(self, model: str, digest: str, word: str) -> None:
        self.runtime.note_fallback(model, digest, word)

    async def stop(self, model: str) -> None:
        await in_background(lambda: self.runtime.stop(model), name=f"stop-{model}")

    def serving(self, model: str) -> ServingStats | None:
        """The release that serves now, with its counters since it began to."""
        return self.runtime.snapshot(model)

    def in_memory(self, model: str) -> str:
        """Digest of the release that serves from verified bytes in memory; "" if none does."""
        return self.runtime.in_memory(model)

    def verified_copy(self, model: str, sha256: str) -> int | None:
        """The serving model's own verified bytes, to repair a file from. The caller closes it."""
        return self.runtime.verified_copy(model, sha256)

    def posted(self, model: str, digest: str) -> Posted:
        """What the application has said of this release's answers in this process."""
        return self.runtime.live.feedback.posted(model, digest)

    def shifts(self, model: str, digest: str) -> tuple[Shift, ...] | None:
        """How far live traffic of this release is from its reference, the furthest first; None
        if nobody watches."""
        return self.runtime.live.shifts(model, digest)

    def open_release(
        self, document: ReleaseDocument, digest: str, opened: ExitStack
    ) -> tuple[ServedRelease, int | None]:
        """A release from verified bytes, and its golden samples, for who serves nobody with it.

        Raises:
            DigestMismatch, ArtifactMissing: a file is damaged; it was set aside.
            SealedDamaged, Transient
        """
        golden = (variant := self.variant_of(document)).file_of_role(FileRole.GOLDEN)
        release = self._released(document, digest, variant, opened)
        return release, None if golden is None else self._files.open(golden, opened)

    def _released(
        self, document: ReleaseDocument, digest: str, variant: Variant, opened: ExitStack
    ) -> ServedRelease:
        return ServedRelease(
            model=document.model,
            version=document.version,
            digest=digest,
            interface=document.interface,
            variant=variant,
            model_fd=self._files.open(variant.model_file, opened),
            bundle=self._files.bundle(variant),
            memory_limit_bytes=self._memory_budget_bytes,
            warm_up=self._files.warm_up(variant, opened),
        )

    def _copy_of_serving(
        self, document: ReleaseDocument, variant: Variant, opened: ExitStack
    ) -> ServedRelease | None:
        """What relative gates compare with, if there are any."""
        if variant.health.relative is None:
            return None
        serving = self.runtime.copy_of_serving(document.model)
        if serving is not None:
            opened.callback(os.close, serving.model_fd)
        return serving

    def variant_of(self, document: ReleaseDocument) -> Variant:
        variant = document.variant_for(self._hardware_class)
        if variant is None:  # eligibility has asked before; a document cannot lose one
            raise GateFailed("class_mismatch", f"No variant for {self._hardware_class}.")
        return variant
