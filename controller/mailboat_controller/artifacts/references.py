"""What names an artifact, so that it is kept.

Whoever adds another kind of file to the store adds its source here, and nothing that it names is
ever collected.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from mailboat_controller.store import artifact_life, deltas, manifests, releases
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.codec import decode
from mailboat_schemas.desired import DesiredState, ManifestBundle
from mailboat_schemas.documents.among import releases_among
from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.envelope import Envelope


@dataclass(frozen=True, slots=True)
class Use:
    """``by`` says what names it, for people. ``length`` in bytes."""

    digest: str
    length: int
    by: str


def of_releases(tx: Transaction) -> Iterator[Use]:
    """Files of every release that is not retired, and of the fallbacks those declare."""
    gone = artifact_life.retired(tx)
    rows = {(row.model, row.version): row for row in releases.every(tx)}
    for row in rows.values():
        if row.digest in gone:
            continue
        document = row.parsed()
        yield from _files(document)
        fallback = rows.get((row.model, document.fallback or ""))
        if fallback is not None and fallback.digest in gone:
            yield from _files(fallback.parsed())


def of_manifests(tx: Transaction) -> Iterator[Use]:
    """Whatever a class is told of now: files of documents that travel along, and patches."""
    for row in manifests.every(tx):
        bundle = decode(ManifestBundle, row.bundle)
        for document in releases_among(bundle.documents).values():
            yield from _files(document)
        desired = decode(DesiredState, decode(Envelope, bundle.desired).payload)
        for delta in desired.deltas:
            by = f"a delta for class {row.hardware_class}"
            yield Use(delta.patch, delta.patch_length, by)


def of_deltas(tx: Transaction) -> Iterator[Use]:
    """Patches that were built, whether or not a class is told of them now."""
    for row in deltas.every(tx, deltas.State.BUILT):
        yield Use(row.patch, row.patch_length, "a delta that was built")


SOURCES: tuple[Callable[[Transaction], Iterator[Use]], ...] = (
    of_releases,
    of_manifests,
    of_deltas,
)


def referenced(tx: Transaction) -> Mapping[str, Use]:
    """Every artifact that something names, by digest."""
    found: dict[str, Use] = {}
    for source in SOURCES:
        for use in source(tx):
            found.setdefault(use.digest, use)
    return found


def _files(document: ReleaseDocument) -> Iterator[Use]:
    by = f"{document.model} {document.version}"
    for file in document.files():
        yield Use(file.artifact_digest, file.artifact_length, by)
