"""What this device says of itself: which releases run, how far they are, and why not further."""

from collections.abc import Iterable
from datetime import datetime

from mailboat_agent.artifacts.disk_room import DiskRoom
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.device_rules import device_rules
from mailboat_agent.errand import Kind
from mailboat_agent.facts import Device
from mailboat_agent.identity.device_key import Identity
from mailboat_agent.ledger import Ledger
from mailboat_agent.model_loop import ModelLoop
from mailboat_agent.reconcile import Reconciler
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.serving.window import ServingStats
from mailboat_agent.trust.manifest import Manifest
from mailboat_agent.trust.role_versions import roles_of
from mailboat_agent.update.events import left_with_nothing, milliseconds
from mailboat_agent.update.steps import Stage, StartTrial
from mailboat_schemas.codec import encode
from mailboat_schemas.envelope import PayloadType, sign_as_device
from mailboat_schemas.reports import (
    ANSWERED_AT_MAX,
    ANSWERED_STEP_SECONDS,
    DISK_STEP_BYTES,
    ModelPhase,
    ReportedModel,
    ReportedState,
)
from mailboat_schemas.staleness import NOTE as STALE
from mailboat_schemas.staleness import STOPPED_NOTE, Action
from mailboat_schemas.trust import TrustView

FAILED_MAX = 256  # of the contract
NOTES_MAX = 16
VERSIONS_MAX = 256  # likewise; the top four and the two roles of as many models as a device has
POLICY_HELD = "policy_held"
WHOLE_MAX = 16
PROGRESS_STEPS = 20  # of one download: a report of 5 KB each would be much on a thin link


class Reporter:
    """`build` says how it stands; `seal` signs it; `changed` whether anybody has to be told."""

    def __init__(
        self,
        *,
        device: Device,
        identity: Identity,
        ledger: Ledger,
        manifest: Manifest,
        store: ReleaseStore,
        runtime: Runtime,
        reconciler: Reconciler,
    ) -> None:
        self._device = device
        self._identity = identity
        self._ledger = ledger
        self._manifest = manifest
        self._store = store
        self._runtime = runtime
        self._reconciler = reconciler
        self._versions_of: TrustView | None = None
        self._versions: dict[str, int] = {}
        self._answered: dict[str, int] = {}

    def build(self, now: datetime, notes: Iterable[str] = ()) -> ReportedState:
        device, state = self._device, self._ledger.state
        facts = device.reported(self._store)
        steps = facts.disk_free_bytes // DISK_STEP_BYTES
        failed = {
            digest: epoch
            for model in state.models.values()
            for digest, epoch in model.failed.items()
        }
        loops, config = self._reconciler.loops.values(), self._reconciler.config
        return ReportedState(
            fleet=device.fleet,
            device=device.device,
            hardware_class=device.hardware_class,
            site=device.site,
            session=state.session,
            observed_at=milliseconds(now),
            manifest_counter=state.manifest_counter,
            trust_versions=self._trust_versions(),
            models=tuple(self._model(loop) for loop in loops)[:64],
            failed=dict(list(failed.items())[-FAILED_MAX:]),
            facts=facts.model_copy(update={"disk_free_bytes": steps * DISK_STEP_BYTES}),
            notes=tuple(
                [*device.order_notes(now), *self._policy_notes(), *self._notes(), *notes][
                    :NOTES_MAX
                ]
            ),
            config=None if config is None else config.reported(),
            site_order=device.reported_site_order,
        )

    def _trust_versions(self) -> dict[str, int]:
        """Of every role, delegated ones too: a controller that lost its newest learns it here."""
        view = self._manifest.view
        if view is None:
            return {}
        if self._versions_of is not view:
            found = {name: role.version for name, role in sorted(roles_of(view).items())}
            self._versions_of, self._versions = view, dict(list(found.items())[:VERSIONS_MAX])
        return self._versions

    def seal(self, report: ReportedState) -> bytes:
        """The bytes of its envelope, signed with the device's key."""
        envelope = sign_as_device(
            PayloadType.REPORTED_STATE, encode(report), self._identity.key, self._identity.keyid
        )
        return encode(envelope)

    def _policy_notes(self) -> list[str]:
        return [POLICY_HELD] if device_rules(self._device, self._manifest).hold else []

    def _notes(self) -> list[str]:
        notes = []
        if not self._reconciler.clock_trusted:
            notes.append("clock_untrusted")
        elif self._manifest.expires is not None and not self._reconciler.trust_fresh:
            notes.append("trust_stale")
        if self._manifest.view is None:
            notes.append("trust_damaged")
        for model, loop in self._reconciler.loops.items():
            if loop.waits_for_budget:
                notes.append(f"metered_wait:{model}")
            serving = self._runtime.snapshot(model)
            if left_with_nothing(self._ledger.model(model)):
                notes.append(f"nothing_to_serve:{model}")
            stale = self._reconciler.staleness.found(model).action
            if stale is not Action.NONE:
                notes.append(f"{STALE}{model}")
            if stale is Action.STOP:
                notes.append(f"{STOPPED_NOTE}{model}")
            if serving is not None and not serving.ready:
                notes.append(f"worker_restarting:{model}")
        if self._reconciler.config is not None:
            notes += self._reconciler.config.notes()
        notes += self._reconciler.drift.notes
        if DiskRoom.of(self._store, self._device.disk_bound_bytes).is_nearly_full:
            notes.append("disk_nearly_full")
        notes += self._device.unconfined
        return notes

    def _model(self, loop: ModelLoop) -> ReportedModel:
        state, serving = loop.state, self._runtime.snapshot(loop.model)
        target = state.active if state.phase is ModelPhase.TRIAL else None
        stopped = loop.view.stopped
        version = None if target is None else target.version
        digest = None if target is None else target.digest
        if isinstance(loop.step, Stage | StartTrial):
            version, digest = loop.step.candidate.version, loop.step.candidate.digest
        staging = loop.work is not None and loop.work.kind is Kind.STAGE
        total_bytes = loop.progress.total_bytes if staging else 0
        return ReportedModel(
            model=loop.model,
            phase=ModelPhase.STAGING if staging else state.phase,
            serving_version=None if serving is None else serving.version,
            serving_digest=None if serving is None else serving.digest,
            target_version=version,
            target_digest=digest,
            because=loop.because[:500],
            security_version=state.security_version,
            switched_at=state.switched_at,
            answered_at=self._answered_at(loop.model, serving),
            stale_since=state.stale_since,
            stopped_version=None if stopped is None else stopped.version,
            stopped_digest=None if stopped is None else stopped.digest,
            previous_version=None if state.previous is None else state.previous.version,
            previous_digest=None if state.previous is None else state.previous.digest,
            spare_version=None if state.spare is None else state.spare.version,
            spare_digest=None if state.spare is None else state.spare.digest,
            whole=loop.view.whole_releases()[:WHOLE_MAX],
            staged_bytes=in_steps(loop.progress.staged_bytes, total_bytes),
            total_bytes=total_bytes,
            drill=self._reconciler.drills.reported(loop.model),
        )

    def _answered_at(self, model: str, serving: ServingStats | None) -> int:
        """Of whatever release: what serves now may not have been asked yet."""
        if serving is not None and serving.last_ok_at is not None:
            at = int(serving.last_ok_at.timestamp())
            self._answered[model] = min(max(0, at), ANSWERED_AT_MAX)
        return self._answered.get(model, 0)


def in_steps(staged_bytes: int, total_bytes: int) -> int:
    """Progress in so few steps that a download changes the report `PROGRESS_STEPS` times."""
    if total_bytes == 0:
        return 0
    return staged_bytes * PROGRESS_STEPS // total_bytes * total_bytes // PROGRESS_STEPS


def says_the_same(one: ReportedState | None, other: ReportedState) -> bool:
    """Whether two reports differ in nothing but when they were made, and by less than an hour in
    when a model answered last: every request would be worth a report."""
    if one is None:
        return False
    models = tuple(map(_answered_as, one.models, other.models))
    same = {"observed_at": other.observed_at, "models": models + one.models[len(models) :]}
    return one.model_copy(update=same) == other


def _answered_as(one: ReportedModel, other: ReportedModel) -> ReportedModel:
    """``one``, with the other's time if that is near."""
    if not one.answered_at or not other.answered_at:
        return one
    if abs(other.answered_at - one.answered_at) >= ANSWERED_STEP_SECONDS:
        return one
    return one.model_copy(update={"answered_at": other.answered_at})
