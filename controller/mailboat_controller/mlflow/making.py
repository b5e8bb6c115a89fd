"""From a model version to a build: fetched, opened as a device would, described, built, tried.

```text
<work>/source/…           what was fetched; the next try goes on there
<work>/made/release.yaml  the pattern with this version's model, interface and provenance
<work>/build/             what `mailboat release build` would have made of that
```
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailboat_controller.bundles.asking import RuntimeWish, as_golden, ask, open_model
from mailboat_controller.bundles.device_process import DeviceProcess, ModelRefused
from mailboat_controller.bundles.given import given_samples
from mailboat_controller.bundles.npz import npz_bytes
from mailboat_controller.bundles.ports import OpenedModel
from mailboat_controller.bundles.trying import run_trial
from mailboat_controller.durable_file import PUBLIC_MODE, replace_durably
from mailboat_controller.mlflow.flavour import Logged, refuse_unfit
from mailboat_controller.mlflow.mapping import MappedModel
from mailboat_controller.mlflow.registry import ModelVersion, Run
from mailboat_controller.mlflow.source import MlflowSource
from mailboat_controller.releases.build import Build, build_release
from mailboat_controller.sources.source import RemoteFile
from mailboat_controller.sources.taking import DIRECTORY, fetch, tree_digest
from mailboat_schemas.documents.release import FileRole, Provenance, ReleaseSource
from mailboat_schemas.documents.yaml_source import load_document
from mailboat_schemas.errors import ConfigurationInvalid, TrialFailed
from mailboat_schemas.names import VERSION_PATTERN

MADE, BUILD = "made", "build"
_TEXT_CHARS_MAX = 512  # what a release document has room for
_REVISION_CHARS_MAX = 128
MODEL_CARD_TAG = "mailboat.model-card"
_IN_ONE_FILE = "log it with save_as_external_data=False: a release's model is one file."

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model version that an alias names, and what it is to become."""

    entry: MappedModel
    pattern: Path
    written: ReleaseSource  # the pattern, read
    version: str  # of the release
    found: ModelVersion
    run: Run
    source: MlflowSource

    @property
    def model(self) -> str:
        return self.written.metadata.name

    @property
    def where(self) -> str:
        return f"{self.found.name} version {self.found.version}"

    @property
    def build(self) -> str:
        """For the release's provenance; "" where no run logged it."""
        return f"mlflow run {self.found.run_id}" if self.found.run_id else ""


def release_version(entry: MappedModel, found: ModelVersion) -> str:
    """
    Raises:
        ConfigurationInvalid: the tag that names it is not there, or is no version.
    """
    if entry.version_tag is None:
        return entry.version_of(found.version)
    named = found.tag(entry.version_tag)
    if named is None or len(named) > 64 or not re.fullmatch(VERSION_PATTERN, named):
        said = "no" if named is None else f"{named[:40]!r} as its"
        raise ConfigurationInvalid(
            f"{found.name} version {found.version} has {said} tag {entry.version_tag!r}, which "
            "names the release's version.",
            next_step="set the tag to a version such as 1.4.0.",
        )
    return named


def load_pattern(path: Path) -> ReleaseSource:
    """
    Raises:
        DocumentInvalid: it is no Release. ConfigurationInvalid: it has several models.
    """
    written = load_document(path, ReleaseSource)
    files = [file for variant in written.spec.variants for file in variant.files]
    models = {file.source for file in files if file.role is FileRole.MODEL}
    if len(models) != 1:
        raise ConfigurationInvalid(
            f"{path} has {len(models)} models, and MLflow gives one.",
            next_step="name the same file of role 'model' in every variant.",
        )
    return written


def make(candidate: Candidate, work: Path, say: Say) -> Build:
    """Fetch, check, build and try. The same model version gives the same bytes.

    Raises:
        FlavourRefused, SignatureRefused, SourceRefused, ModelRefused, TrialFailed: for good.
        ServerUnavailable, DownloadInterrupted: a retry goes on.
        DocumentInvalid, ConfigurationInvalid, AgentMissing, DiskFull: for a person.
    """
    logged, graph = candidate.source.logged(candidate.entry.bytes_max)
    say(f"{candidate.where}: fetching {graph.name}, {graph.length} bytes.")
    digests = fetch(candidate.source, [graph], work, lambda _name, _count: None)
    fetched = work / DIRECTORY / graph.name
    with DeviceProcess.start() as device:
        say(f"{candidate.where}: loading it as a device would.")
        opened = _open(device, candidate, logged, fetched)
        golden = _golden(device, candidate, opened)
        yaml = _write_release(candidate, work / MADE, fetched, opened, golden)
        reference = candidate.source.reference(tree_digest(digests.items()))
        built = build_release(yaml, work / BUILD, registry=reference)
        _try(device, candidate, built, say)
    return built


def _open(device: DeviceProcess, candidate: Candidate, logged: Logged, path: Path) -> OpenedModel:
    runtime = candidate.written.spec.variants[0].runtime
    wish = RuntimeWish(providers=runtime.providers, threads=runtime.threads)
    try:
        opened = open_model(device, path, wish)
    except ModelRefused as refusal:
        if "external_data" in (refusal.kind, refusal.agent_code):
            raise ModelRefused(
                f"{candidate.where} keeps its weights in another file.",
                _IN_ONE_FILE,
                agent_code=refusal.agent_code,
                kind=refusal.kind,
            ) from refusal
        raise
    required = candidate.entry.signature == "required"
    refuse_unfit(logged, opened.model, candidate.where, required=required)
    return opened


def _golden(device: DeviceProcess, candidate: Candidate, opened: OpenedModel) -> bytes | None:
    """What this very model answers to the mapping's samples; None: the pattern's are kept."""
    if candidate.entry.samples is None:
        return None
    path = candidate.pattern.parent / candidate.entry.samples
    asked = ask(device, given_samples(path, opened.inputs).inputs)
    count = len(next(iter(asked.inputs.values())))
    return npz_bytes(as_golden(asked.inputs, asked.outputs, count))


def _write_release(
    candidate: Candidate,
    made: Path,
    fetched: Path,
    opened: OpenedModel,
    golden: bytes | None,
) -> Path:
    """The release as a person would have written it, beside the files it names."""
    shutil.rmtree(made, ignore_errors=True)  # of a try before this one
    made.mkdir(parents=True)
    content = candidate.written.model_dump(mode="json", by_alias=True, exclude_unset=True)
    content["metadata"]["version"] = candidate.version
    spec = content["spec"]
    if candidate.entry.interface == "model":
        spec["interface"] = opened.interface().model_dump(mode="json")
    given = candidate.written.spec.provenance
    spec["provenance"] = provenance(candidate, given).model_dump(mode="json", exclude_defaults=True)
    names: dict[str, str] = {}
    for variant in spec["variants"]:
        for file in variant["files"]:
            source = str(file["source"])
            if source not in names:
                names[source] = f"file-{len(names)}"
                _place(candidate, made / names[source], source, file["role"], fetched, golden)
            file["source"] = names[source]
    path = made / "release.yaml"
    replace_durably(path, json.dumps(content, indent=1, sort_keys=True).encode(), mode=PUBLIC_MODE)
    return path


def _place(
    candidate: Candidate, to: Path, source: str, role: str, fetched: Path, golden: bytes | None
) -> None:
    if role == FileRole.GOLDEN and golden is not None:
        to.write_bytes(golden)
        return
    origin = fetched if role == FileRole.MODEL else candidate.pattern.parent / source
    try:
        to.symlink_to(origin.resolve(strict=True))
    except OSError as error:
        raise ConfigurationInvalid(
            f"{candidate.pattern} names {source!r}, which cannot be read: {error.strerror}.",
            next_step="put the file beside that YAML.",
        ) from error


def provenance(candidate: Candidate, given: Provenance) -> Provenance:
    """What MLflow knows of it; what the pattern says stays where MLflow says nothing."""
    run, found = candidate.run, candidate.found
    measured = ((name, run.metric(name)) for name in candidate.entry.metrics)
    told: dict[str, str] = {
        "source_repository": run.tag("mlflow.source.git.repoURL")[:_TEXT_CHARS_MAX],
        "source_revision": run.tag("mlflow.source.git.commit")[:_REVISION_CHARS_MAX],
        "build": candidate.build,
        "dataset": ", ".join(f"{each.name}@{each.digest}" for each in run.datasets),
        "evaluation": ", ".join(
            f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in measured
            if value is not None
        ),
        "model_card": found.tag(MODEL_CARD_TAG) or "",
    }
    update: dict[str, Any] = {
        name: _printable(text)[:_TEXT_CHARS_MAX] for name, text in told.items() if text
    }
    return given.model_copy(update=update)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _try(device: DeviceProcess, candidate: Candidate, built: Build, say: Say) -> None:
    """The device's own trial, of each variant.

    Raises:
        TrialFailed
    """
    for variant in built.document.variants:
        name = variant.hardware_classes[0]
        say(f"{candidate.where}: a trial for {name}.")
        outcome = run_trial(device, built, name, variant.peak_memory)
        if not outcome.passed:
            raise TrialFailed(outcome.reason, f"For {name}: {outcome.what}")


def graph_of(candidate: Candidate) -> tuple[Logged, RemoteFile]:
    """What would be fetched, and nothing of it fetched but its description."""
    return candidate.source.logged(candidate.entry.bytes_max)
