"""Following aliases: look, decide, record, act. A webhook only makes the next look come sooner."""

import hashlib
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from securesystemslib.signer import Signer

from mailboat_controller.client import ApiClient
from mailboat_controller.mlflow import handing_in, making, seen
from mailboat_controller.mlflow.checking import candidate_of
from mailboat_controller.mlflow.mapping import MappedModel, MlflowMapping
from mailboat_controller.mlflow.registry import MlflowRegistry, ModelVersion
from mailboat_controller.mlflow.seen import SeenFile, Sighting, State
from mailboat_schemas.documents.release import document_digest
from mailboat_schemas.errors import MailboatError, ReleaseRejected, Transient

RELEASE_TAG, DIGEST_TAG, STATE_TAG = "mailboat.release", "mailboat.digest", "mailboat.state"
WORK = "work"
MOVES_MAX = 3  # of an alias that moves faster than models are tried; then it is the next look's


class AliasMoved(Transient):
    """While a version was being made the alias went on to another, which is taken instead."""

    code = "E-MLFLOW-ALIAS-MOVED"


@dataclass(frozen=True, slots=True)
class Told:
    """What one look at an alias came to."""

    key: str
    version: str  # MLflow's number, or ""
    state: str  # a `State`, "nothing" to do, or "unreachable"
    release: str = ""
    digest: str = ""
    because: str = ""
    next_step: str = ""


class Follower:
    def __init__(
        self,
        *,
        mapping: MlflowMapping,
        path: Path,
        registry: MlflowRegistry,
        api: ApiClient,
        signer: Signer,
        state: SeenFile,
        directory: Path,
        now: Callable[[], datetime],
        say: making.Say,
    ) -> None:
        """``path`` is the mapping's own; ``directory`` holds what is being made."""
        self._mapping = mapping
        self._path = path
        self._registry = registry
        self._api = api
        self._signer = signer
        self._state = state
        self._directory = directory
        self._now = now
        self._say = say

    def look(self, keys: Iterable[str] | None = None) -> list[Told]:
        """At all aliases, or at those named ``registered@alias``; others are not ours."""
        wanted = None if keys is None else set(keys)
        entries = [e for e in self._mapping.spec.models if wanted is None or e.key in wanted]
        return [self._look_at(entry) for entry in entries]

    def _look_at(self, entry: MappedModel) -> Told:
        told = self._look_once(entry)
        for _ in range(MOVES_MAX):
            if not told.because.startswith(AliasMoved.code):
                break
            told = self._look_once(entry)
        return told

    def _look_once(self, entry: MappedModel) -> Told:
        before = self._state.seen.aliases.get(entry.key)
        try:
            found = self._registry.version_of_alias(entry.registered, entry.alias)
            fingerprint = self._fingerprint(entry)
        except MailboatError as error:
            return Told(
                entry.key, "", "unreachable", because=str(error.what), next_step=error.next_step
            )
        version, run = (None, "") if found is None else (found.version, found.run_id)
        look = seen.decide(before, version, fingerprint, self._now(), run)
        if not look.take or found is None:
            release = "" if before is None or before.version != version else before.release
            return Told(entry.key, version or "", "nothing", release=release, because=look.because)
        return self._take(entry, found, fingerprint, before)

    def _take(
        self, entry: MappedModel, found: ModelVersion, fingerprint: str, before: Sighting | None
    ) -> Told:
        sighting = Sighting(
            version=found.version,
            run_id=found.run_id,
            fingerprint=fingerprint,
            state=State.FAILED,
        )
        try:
            release, digest = self._submit(entry, found)
            done = {"state": State.SUBMITTED, "release": release, "digest": digest}
            sighting = sighting.model_copy(update=done)
        except MailboatError as error:
            told = {"problem": f"{error.code}: {error.what}", "next_step": error.next_step}
            sighting = sighting.model_copy(update=told)
            if isinstance(error, ReleaseRejected):
                sighting = sighting.model_copy(update={"state": State.REFUSED})
            else:
                base = timedelta(seconds=self._mapping.spec.interval_seconds)
                if isinstance(error, AliasMoved):
                    base = timedelta()
                sighting = seen.failed(before, sighting, base, self._now())
        self._state.put(entry.key, sighting)
        self._tell_back(found, sighting)
        return Told(
            entry.key,
            found.version,
            sighting.state.value,
            release=sighting.release,
            digest=sighting.digest,
            because=sighting.problem,
            next_step=sighting.next_step,
        )

    def _submit(self, entry: MappedModel, found: ModelVersion) -> tuple[str, str]:
        """The release and its digest; found at the controller, or made and handed in."""
        candidate = candidate_of(entry, self._path, self._registry, found)
        release = f"{candidate.model}@{candidate.version}"
        held = handing_in.held_release(self._api, candidate.model, candidate.version)
        if held is not None:
            document, content = held
            handing_in.refuse_other(document, candidate.source.address, candidate.build)
            return release, document_digest(content)
        work = self._work_of(entry, found)
        built = making.make(candidate, work, self._say)
        now_named = self._registry.version_of_alias(entry.registered, entry.alias)
        if now_named is None or now_named.version != found.version:
            raise AliasMoved(
                f"{entry.key} no longer names version {found.version}.",
                next_step="nothing: the next look takes what it names then.",
            )
        reason = f"MLflow {found.name} version {found.version}, alias {entry.alias}"
        handing_in.hand_in(self._api, built, self._signer, reason, self._now())
        shutil.rmtree(work, ignore_errors=True)
        return release, built.digest

    def _work_of(self, entry: MappedModel, found: ModelVersion) -> Path:
        """A directory for this version; what was begun of another one is thrown away."""
        name = hashlib.sha256(entry.key.encode()).hexdigest()[:16]
        place = self._directory / WORK / name
        if place.is_dir():
            for other in place.iterdir():
                if other.name != found.version:
                    shutil.rmtree(other, ignore_errors=True)
        return place / found.version

    def _fingerprint(self, entry: MappedModel) -> str:
        digest = hashlib.sha256(entry.model_dump_json().encode())
        for name in (entry.release, entry.samples):
            if name is not None:
                with suppress(OSError):  # `make` says so, with the next step
                    about = (self._path.parent / name).stat()
                    digest.update(f"{about.st_mtime_ns} {about.st_size}".encode())
        return digest.hexdigest()

    def _tell_back(self, found: ModelVersion, sighting: Sighting) -> None:
        """Best effort: what counts is in the controller and in our own file."""
        state = sighting.state.value + (f": {sighting.problem}" if sighting.problem else "")
        tags = {STATE_TAG: state, RELEASE_TAG: sighting.release, DIGEST_TAG: sighting.digest}
        try:
            for key, value in tags.items():
                if value:
                    self._registry.set_tag(found, key, value)
        except MailboatError as error:
            self._say(f"MLflow was not told of it: {error.what}")
