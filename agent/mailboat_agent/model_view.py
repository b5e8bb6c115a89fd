"""One model as this device sees it: what is recorded, what is assigned, what is known of both."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.device_rules import device_rules, policy_of
from mailboat_agent.drift.file_check import StoredFile
from mailboat_agent.facts import Device, Look
from mailboat_agent.trust.manifest import Manifest
from mailboat_agent.update.keeping import gives_way
from mailboat_agent.update.site_rollback import site_pins
from mailboat_agent.update.situation import Known, Situation
from mailboat_agent.update.state import Installed, ModelState
from mailboat_schemas.class_budgets import NO_BUDGETS
from mailboat_schemas.device_orders import Pin
from mailboat_schemas.documents.failure_mode import FailureMode, strictest
from mailboat_schemas.documents.release import ReleaseDocument, Variant
from mailboat_schemas.eligibility import pins_that_stand
from mailboat_schemas.policy_rules import Rules
from mailboat_schemas.reports import ModelPhase


class Records(Protocol):
    """What is recorded of each model: the ledger's word, or that of a state file at rest."""

    def model(self, model: str) -> ModelState: ...


class ModelView:
    """Reads only."""

    def __init__(
        self,
        model: str,
        *,
        device: Device,
        ledger: Records,
        manifest: Manifest,
        store: ReleaseStore,
    ) -> None:
        self.model = model
        self._device = device
        self._ledger = ledger
        self._manifest = manifest
        self._store = store

    @property
    def state(self) -> ModelState:
        return self._ledger.model(self.model)

    @property
    def rules(self) -> Rules:
        """Of policy, as they apply to this device."""
        return device_rules(self._device, self._manifest)

    @property
    def stopped(self) -> Installed | None:
        """What the record says should serve, while policy stops it for being too far behind."""
        serving = self.state.serving
        return serving if self._device.is_stopped(self.model, serving) else None

    def situation(
        self,
        look: Look,
        *,
        attempt_running: bool,
        trial_passed: bool,
        shadow_over: bool,
        in_memory: str,
        cannot_fetch: str,
    ) -> Situation:
        """What `decide` looks at."""
        known = None
        facts = self._device.for_decision(self.state, self.model, self._store, look)
        policy, desired = policy_of(self._device, self._manifest), self._manifest.desired
        if self._manifest.view is not None:
            known = {release.digest: self._known(release) for release in self.named_releases()}
        situation = Situation(
            model=self.model,
            assignment=self._manifest.assignment(self.model),
            state=self.state,
            facts=replace(
                facts,
                pins=self._pins(),
                rules=self.rules,
                policy_version=policy.version,
                policy_ranges=policy.ranges,
                class_budgets=NO_BUDGETS if desired is None else desired.budgets,
            ),
            known=known,
            failure_mode=strictest(self._manifest.failure_mode, self._device.failure_mode),
            attempt_running=attempt_running,
            trial_passed=trial_passed,
            shadow_over=shadow_over,
            in_memory=in_memory,
            set_aside=self._store.set_aside.digests(),
            cannot_fetch=cannot_fetch,
            stopped="" if self.stopped is None else self.stopped.digest,
        )
        pins = site_pins(situation, self._device.site_order, look.now)
        if not pins:
            return situation
        return replace(situation, facts=replace(situation.facts, site_pins=pins))

    def _pins(self) -> tuple[Pin, ...]:
        """On releases of this model that may run."""
        order = self._device.order
        pins = [] if order is None else [pin for pin in order.pins if pin.model == self.model]
        return pins_that_stand(pins, self._manifest.standing)

    def _known(self, release: Installed) -> Known:
        return self._manifest.known(self.model, release.version, release.digest)

    def named_releases(self) -> list[Installed]:
        """Every release that the record or the assignment names."""
        return [*self._needed_releases(), *gives_way(self.state)]

    def _needed_releases(self) -> list[Installed]:
        """Without those that are kept only while there is room."""
        may_go = gives_way(self.state)
        found: list[Installed | None] = [self.state.active]
        found += [each for each in self.state.predecessors if each not in may_go]
        ran = len(found)
        assignment = self._manifest.assignment(self.model)
        if assignment is not None:
            offered = None if assignment.offer is None else assignment.offer.release
            found += [
                None if ref is None else Installed(version=ref.version, digest=ref.digest)
                for ref in (assignment.current, offered)
            ]
        found += [Installed(version=pin.version, digest=pin.digest) for pin in self._pins()]
        # What was declared is of use to whoever runs the release, or may come to.
        for release in (self.state.active, self.state.previous, *found[ran:]):
            fallback = release and self._manifest.fallback_of(self.model, release.digest)
            if fallback:
                found.append(Installed(version=fallback.version, digest=fallback.digest))
        return [release for release in found if release is not None]

    def whole_releases(self) -> tuple[str, ...]:
        """Digests of what is named here and has all its files in the store."""
        held = self._store.digests() | self._store.content_keys.ids()
        found: dict[str, None] = {}
        for release in self.named_releases():
            variant = self.variant(self._manifest.document(release.digest))
            if variant is not None and variant.needed <= held:
                found[release.digest] = None
        return tuple(found)

    def not_to_be_served(self, also: Iterable[Installed | None]) -> frozenset[str]:
        """Digests of what is named here, and of ``also``, that are not approved (any more)."""
        releases = [*self.named_releases(), *(each for each in also if each is not None)]
        may_serve = self._manifest.may_serve
        return frozenset(
            each.digest for each in releases if not may_serve(self.model, each.version, each.digest)
        )

    @property
    def is_vouched_for(self) -> bool:
        """Whether the device's own trust metadata verifies."""
        return self._manifest.view is not None

    def document(self, digest: str) -> ReleaseDocument | None:
        return self._manifest.document(digest)

    def failure_mode(self, document: ReleaseDocument | None) -> FailureMode:
        """The strictest of what the class, the device and this release say."""
        own = None if document is None else document.failure_mode
        return strictest(self._manifest.failure_mode, self._device.failure_mode, own)

    def fallback_of(self, digest: str) -> Installed | None:
        """The approved release that this one declares as its fallback."""
        found = self._manifest.fallback_of(self.model, digest)
        return None if found is None else Installed(version=found.version, digest=found.digest)

    def is_assigned(self, digest: str) -> bool:
        """Whether this release is what the model's class is meant to run, or is offered, or what
        this device is pinned to."""
        if any(pin.digest == digest for pin in self._pins()):
            return True
        assignment = self._manifest.assignment(self.model)
        if assignment is None:
            return False
        offered = None if assignment.offer is None else assignment.offer.release
        wanted = (assignment.current, offered)
        return digest in {release.digest for release in wanted if release is not None}

    def needed_digests(self) -> set[str]:
        """What this model needs in the store, whatever else wants the room: documents, files,
        content keys."""
        # What the release that was left last allows, forbids and falls back to is asked afterwards.
        keep = {self.state.outcome_digest} - {""}
        for release in self._needed_releases():
            keep |= self._needed_by(release)
        return keep | {release.digest for release in self.named_releases()}

    def kept_releases(self) -> dict[Installed, frozenset[str]]:
        """What is kept besides, while there is room, with its files, the oldest first: to go back
        to. What is not approved any more or lacks a file is no such place."""
        if self.state.phase is ModelPhase.COMMITTED and self._device.keep_predecessors < 2:
            return {}
        may_go = gives_way(self.state)
        if not may_go:
            return {}
        held = self._store.digests() | self._store.content_keys.ids()
        found: dict[Installed, frozenset[str]] = {}
        for release in reversed(may_go):
            approved = self._manifest.may_serve(self.model, release.version, release.digest)
            files = self._needed_by(release)
            if approved and files and files <= held:
                found[release] = files
        return found

    def _needed_by(self, release: Installed) -> frozenset[str]:
        variant = self.variant(self._manifest.document(release.digest))
        return frozenset() if variant is None else variant.needed

    def stored_files(self) -> list[StoredFile]:
        """What belongs in the store for the releases that this device runs, ran, or may come to."""
        found = []
        for release in (*self._needed_releases(), *self.kept_releases()):
            document = self._manifest.document(release.digest)
            variant = self.variant(document)
            if document is None or variant is None:
                continue
            content = document.canonical_bytes()
            is_it = hashlib.sha256(content).hexdigest() == release.digest
            stored = [(release.digest, len(content), "document", content if is_it else None)]
            stored += [(f.artifact_digest, f.artifact_length, f.path, None) for f in variant.files]
            found += [
                StoredFile(
                    digest=digest,
                    length=length,
                    path=path,
                    model=self.model,
                    version=release.version,
                    release=release.digest,
                    content=known,
                )
                for digest, length, path, known in stored
            ]
        return found

    def variant(self, document: ReleaseDocument | None) -> Variant | None:
        """Of this device's class."""
        return None if document is None else document.variant_for(self._device.hardware_class)
