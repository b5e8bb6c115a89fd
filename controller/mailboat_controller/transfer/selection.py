"""Which releases, and so which files, go into a carrier."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from mailboat_schemas.carrier import (
    ARTIFACTS_MAX,
    CarriedFile,
    CarriedRelease,
    Contents,
)
from mailboat_schemas.codec import decode
from mailboat_schemas.desired import Assignment, DesiredState, ManifestBundle, ReleaseRef
from mailboat_schemas.documents.among import releases_among
from mailboat_schemas.documents.release import ReleaseDocument, document_digest
from mailboat_schemas.envelope import Envelope
from mailboat_schemas.errors import ConfigurationInvalid, NotFound


@dataclass(frozen=True, slots=True)
class Wanted:
    """``models`` None stands for all. ``kept_too``: also releases that a device may only still
    run, or fall back to."""

    models: frozenset[str] | None = None
    kept_too: bool = False


def contents_of(manifest: bytes, timestamp: bytes, wanted: Wanted) -> Contents:
    """The table of contents for a manifest, as it was published. Verifies nothing: devices do.

    Raises:
        MalformedPayload: no manifest.
        NotFound: a model that this class is not assigned.
        ConfigurationInvalid: more files than a carrier has room for.
    """
    bundle = decode(ManifestBundle, manifest)
    desired = decode(DesiredState, decode(Envelope, bundle.desired).payload)
    assigned = {each.model for each in desired.assignments}
    unknown = sorted((wanted.models or frozenset()) - assigned)
    if unknown:
        raise NotFound(
            f"Class {bundle.hardware_class} is not assigned model {unknown[0]}.",
            next_step=f"choose from {', '.join(sorted(assigned)) or 'none: nothing is assigned'}.",
        )
    documents = releases_among(
        {
            digest: content
            for digest, content in bundle.documents.items()
            if document_digest(content) == digest
        }
    )
    releases: dict[str, CarriedRelease] = {}
    artifacts: dict[str, int] = {}
    for assignment in desired.assignments:
        if wanted.models is not None and assignment.model not in wanted.models:
            continue
        for digest in _releases(assignment, documents, kept_too=wanted.kept_too):
            document = documents[digest]
            variant = document.variant_for(bundle.hardware_class)
            files = {} if variant is None else variant.artifacts
            artifacts |= files
            releases[digest] = CarriedRelease(
                model=document.model,
                version=document.version,
                digest=digest,
                size_bytes=sum(files.values()),
            )
    if len(artifacts) > ARTIFACTS_MAX:
        raise ConfigurationInvalid(
            f"{len(artifacts)} files are more than the {ARTIFACTS_MAX} of one exported file.",
            next_step="export some models at a time with --model.",
        )
    return Contents(
        fleet=bundle.fleet,
        hardware_class=bundle.hardware_class,
        counter=desired.counter,
        releases=tuple(releases.values()),
        manifest=_carried(manifest),
        timestamp=_carried(timestamp),
        # Smallest first, as devices fetch them.
        artifacts=tuple(
            CarriedFile(sha256=digest, length=length)
            for digest, length in sorted(artifacts.items(), key=lambda each: (each[1], each[0]))
        ),
    )


def _carried(content: bytes) -> CarriedFile:
    return CarriedFile(sha256=hashlib.sha256(content).hexdigest(), length=len(content))


def _releases(
    assignment: Assignment, documents: dict[str, ReleaseDocument], *, kept_too: bool
) -> Iterator[str]:
    """Digests of those whose documents are at hand."""
    offered = None if assignment.offer is None else assignment.offer.release
    named: list[ReleaseRef | None] = [assignment.current, offered]
    if kept_too:
        named += assignment.kept
    digests = [ref.digest for ref in named if ref is not None and ref.digest in documents]
    yield from digests
    if kept_too:
        fallbacks = {documents[digest].fallback for digest in digests} - {None}
        for digest, document in documents.items():
            if document.model == assignment.model and document.version in fallbacks:
                yield digest
