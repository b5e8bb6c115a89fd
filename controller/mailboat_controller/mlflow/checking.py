"""What `mailboat mlflow poll` would do with one line of the mapping. Changes nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailboat_controller.client import ApiClient
from mailboat_controller.mlflow import handing_in, making
from mailboat_controller.mlflow.flavour import SignatureRefused, refuse_unfit
from mailboat_controller.mlflow.making import Candidate
from mailboat_controller.mlflow.mapping import MappedModel
from mailboat_controller.mlflow.registry import MlflowRegistry, ModelVersion
from mailboat_controller.mlflow.source import MlflowSource
from mailboat_schemas.errors import MailboatError


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    key: str
    version: str = ""
    release: str = ""
    file: str = ""
    bytes: int | None = None
    because: str
    next_step: str = ""
    fine: bool = True

    @property
    def told(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def candidate_of(
    entry: MappedModel, mapping: Path, registry: MlflowRegistry, found: ModelVersion
) -> Candidate:
    """
    Raises:
        DocumentInvalid, ConfigurationInvalid: the mapping, its pattern, a tag.
    """
    pattern = mapping.parent / entry.release
    return Candidate(
        entry=entry,
        pattern=pattern,
        written=making.load_pattern(pattern),
        version=making.release_version(entry, found),
        found=found,
        run=registry.run(found.run_id),
        source=MlflowSource(registry, found),
    )


def check_entry(
    entry: MappedModel, mapping: Path, registry: MlflowRegistry, api: ApiClient
) -> Checked:
    version = release = ""
    try:
        found = registry.version_of_alias(entry.registered, entry.alias)
        if found is None:
            making.load_pattern(mapping.parent / entry.release)
            return Checked(key=entry.key, because="do nothing: no version has this alias")
        version = found.version
        candidate = candidate_of(entry, mapping, registry, found)
        release = f"{candidate.model}@{candidate.version}"
        held = handing_in.held_release(api, candidate.model, candidate.version)
        if held is not None:
            handing_in.refuse_other(held[0], candidate.source.address, candidate.build)
            because = "do nothing: it was submitted"
            return Checked(key=entry.key, version=version, release=release, because=because)
        logged, graph = making.graph_of(candidate)
        if logged.inputs is None and entry.signature == "required":
            raise _unsigned(candidate)
        if entry.interface == "release":
            refuse_unfit(logged, candidate.written.spec.interface, candidate.where, required=False)
    except MailboatError as error:
        return Checked(
            key=entry.key,
            version=version,
            release=release,
            because=f"not take it: {error.code}: {error.what}",
            next_step=error.next_step,
            fine=False,
        )
    return Checked(
        key=entry.key,
        version=version,
        release=release,
        file=graph.name,
        bytes=graph.length,
        because="fetch, try, sign and submit it",
    )


def _unsigned(candidate: Candidate) -> SignatureRefused:
    return SignatureRefused(
        f"{candidate.where} has no signature of its inputs and outputs.",
        next_step="log it with signature=mlflow.models.infer_signature(inputs, outputs).",
    )
