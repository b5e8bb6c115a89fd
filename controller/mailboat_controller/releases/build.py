"""From a YAML and files on a publisher's disk to a release document and content-addressed files.

The same input gives the same bytes: nothing of the machine, the time or the path goes in. A build
directory holds

```text
release.json       the release document, canonical
blobs/<sha256>     every file of every variant, as it is uploaded
content-key        of an encrypted release, if it was made here; not for others to read
roles/<role>.json  signed metadata, added by `sign` and `approve`
```

and belongs to one build at a time. A crash leaves at most a ``.part`` file, which the next build
removes; the document is put in place last.
"""

import errno
import hashlib
import os
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version as distribution_version
from math import ceil
from pathlib import Path

from mailboat_controller.durable_file import PUBLIC_MODE, fsync_directory, replace_durably
from mailboat_controller.releases.blobs import Progress, copy_file, seal_file
from mailboat_schemas import cohort
from mailboat_schemas.documents.release import (
    DOCUMENT_BYTES_MAX,
    File,
    ReleaseDocument,
    ReleaseSource,
    SourceFile,
    Variant,
    document_digest,
)
from mailboat_schemas.documents.rollout import Rollout, Wave
from mailboat_schemas.documents.yaml_source import load_document
from mailboat_schemas.errors import ConfigurationInvalid, DiskFull, DocumentInvalid
from mailboat_schemas.gate_terms import seconds_of, terms_of
from mailboat_schemas.plan import Plan, PlanWave

_PERCENT = 100

DOCUMENT_NAME = "release.json"
BLOBS = "blobs"
ROLES = "roles"


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A build directory, read."""

    directory: Path
    document: ReleaseDocument
    content: bytes
    digest: str

    def blob(self, file: File) -> Path:
        return self.directory / BLOBS / file.artifact_digest

    def missing_blobs(self) -> tuple[File, ...]:
        return tuple(file for file in self.document.files() if not self.blob(file).is_file())

    def role_path(self, role: str) -> Path:
        return self.directory / ROLES / f"{role}.json"

    def roles(self) -> dict[str, bytes]:
        """Signed roles made for this build so far, by role name."""
        folder = self.directory / ROLES
        return {path.stem: path.read_bytes() for path in sorted(folder.glob("*.json"))}

    def write_role(self, role: str, content: bytes) -> Path:
        path = self.role_path(role)
        replace_durably(path, content, mode=PUBLIC_MODE)
        return path


def build_release(
    source: Path,
    directory: Path,
    progress: Progress | None = None,
    *,
    content_key: bytes | None = None,
    registry: str = "",
) -> Build:
    """Build ``source`` (a YAML of kind Release) into ``directory``.

    With a content key every file is encrypted under it, and no copy in the clear is made.

    ``registry`` says where the files were imported from, with a digest; it is recorded.

    Roles that were signed for another document are removed from it.

    Raises:
        DocumentInvalid: the YAML, or a file it names, is not what it must be.
        ConfigurationInvalid: ``directory`` cannot be written. DiskFull: it has no room.
    """
    written = load_document(source, ReleaseSource)
    blobs = _make_blobs(directory)
    files: dict[str, File] = {}
    variants = []
    for variant in written.spec.variants:
        for entry in variant.files:
            if entry.source not in files:
                files[entry.source] = _store(source, entry, blobs, content_key, progress)
        variants.append(
            Variant(
                hardware_classes=variant.hardware_classes,
                files=tuple(_entry(entry, files[entry.source]) for entry in variant.files),
                runtime=variant.runtime,
                peak_memory=variant.peak_memory,
                health=variant.health,
                serving=variant.serving,
                pipeline=variant.pipeline,
            )
        )
    document = _document(source, written, tuple(variants), registry)
    content = document.canonical_bytes()
    fsync_directory(blobs)
    _put_document(directory, content)
    return Build(
        directory=directory, document=document, content=content, digest=document_digest(content)
    )


def read_build(directory: Path) -> Build:
    """Read what `build_release` wrote.

    Raises:
        ConfigurationInvalid: there is no build in this directory.
    """
    path = directory / DOCUMENT_NAME
    try:
        with path.open("rb") as file:
            content = file.read(DOCUMENT_BYTES_MAX + 1)  # one more is enough to be refused for
    except OSError as error:
        raise ConfigurationInvalid(
            f"There is no build in {directory}.",
            next_step="run `mailboat release build RELEASE.yaml --out DIR` first.",
        ) from error
    document = ReleaseDocument.parse(content)
    return Build(
        directory=directory, document=document, content=content, digest=document_digest(content)
    )


def plan_of(rollout: Rollout, devices_per_class: int | None) -> Plan:
    """The plan an approver signs for a Rollout document: integers, and a cap for every wave.

    Args:
        devices_per_class: how many devices the smallest class has; a wave that is neither pilots
            nor 100 % is capped by it.

    Raises:
        ConfigurationInvalid: such a wave, and the number is not given.
    """
    spec = rollout.spec
    return Plan(
        rollout=rollout.metadata.name,
        waves=tuple(_plan_wave(wave, devices_per_class) for wave in spec.waves),
        hardware_classes=spec.hardware_classes,
        manual_start=spec.start == "manual",
        expires=_seconds("expires", spec.expires),
        urgency="emergency" if spec.urgency == "emergency" else None,
        reason=spec.reason,
    )


def _plan_wave(wave: Wave, devices: int | None) -> PlanWave:
    # A share too small for a millionth is one millionth: a wave of nobody would pass by itself.
    ppm = 0 if wave.percent is None else max(1, round(wave.percent * cohort.PPM / _PERCENT))
    if wave.percent == _PERCENT:
        cap = cohort.PPM
    elif wave.percent is None and wave.devices is None:
        cap = 0
    elif devices is None:
        raise ConfigurationInvalid(
            f"The cap of wave {wave.name or wave.percent or wave.devices} depends on how many "
            "devices a class has.",
            next_step="add --devices-per-class N with the size of the smallest class.",
        )
    else:
        count = wave.devices if wave.devices is not None else ceil(devices * ppm / cohort.PPM)
        cap = cohort.cap_ppm(count, devices)
    return PlanWave(
        pilots=wave.pilots,
        count=wave.devices or 0,
        count_ppm=ppm,
        cap_ppm=cap,
        ring=wave.ring,
        earliest=_seconds("earliest", wave.earliest),
        ok_min=wave.gate.ok_min or 0,
        gate=terms_of(wave.gate),
        wait_max=seconds_of(wave.gate.wait_max_hours),
        restarts_min=wave.gate.clean_restarts,
        drills_min=wave.gate.rollback_drills,
    )


def _seconds(name: str, at: datetime | None) -> int:
    """Whole seconds since 1970 UTC; 0 means that nothing was said."""
    if at is None:
        return 0
    seconds = int(at.timestamp())
    if seconds <= 0:
        raise ConfigurationInvalid(
            f"{name!r} is {at.isoformat()}, before the plan's first second.",
            next_step="write a time after 1970-01-01T00:00:00Z.",
        )
    return seconds


def _make_blobs(directory: Path) -> Path:
    blobs = directory / BLOBS
    try:
        blobs.mkdir(parents=True, exist_ok=True)
        for part in blobs.glob("*.part"):
            part.unlink()  # of a build that did not end
    except OSError as error:
        raise ConfigurationInvalid(
            f"{directory} cannot be built into: {error.strerror}.",
            next_step="name another directory with --out.",
        ) from error
    return blobs


def _put_document(directory: Path, content: bytes) -> None:
    path = directory / DOCUMENT_NAME
    if path.exists() and path.read_bytes() != content:
        for role in (directory / ROLES).glob("*.json"):
            role.unlink()
    replace_durably(path, content, mode=PUBLIC_MODE)


def _document(
    source: Path, written: ReleaseSource, variants: tuple[Variant, ...], registry: str
) -> ReleaseDocument:
    provenance = written.spec.provenance.model_copy(
        update={
            "source_digest": hashlib.sha256(source.read_bytes()).hexdigest(),
            "builder": f"mailboat {distribution_version('mailboat')}",
            "registry": registry or written.spec.provenance.registry,
        }
    )
    return ReleaseDocument(
        model=written.metadata.name,
        version=written.metadata.version,
        description=written.metadata.description,
        security_version=written.spec.security_version,
        interface=written.spec.interface,
        variants=variants,
        compatibility=written.spec.compatibility,
        provenance=provenance,
        fallback=written.spec.fallback,
        failure_mode=written.spec.failure_mode,
    )


def _entry(entry: SourceFile, stored: File) -> File:
    return stored.model_copy(update={"path": entry.path, "role": entry.role})


def _store(
    source: Path,
    entry: SourceFile,
    blobs: Path,
    content_key: bytes | None,
    progress: Progress | None,
) -> File:
    """Bring one file into the build, hashed while it is read, under the digest of its artifact."""
    part = blobs / f"{os.getpid()}.part"
    try:
        origin, sealed = source.parent / entry.source, None
        if content_key is None:
            sha256, length = copy_file(origin, part, progress)
        else:
            sha256, length, sealed = seal_file(origin, part, content_key, progress)
        file = File(path=entry.path, role=entry.role, sha256=sha256, length=length, sealed=sealed)
        part.replace(blobs / file.artifact_digest)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"{blobs} has no room for {entry.source!r}.", next_step="make room and build again."
            ) from error
        raise DocumentInvalid(
            str(source),
            f"file {entry.source!r}: {error.strerror}",
            next_step="'source' is a path beside the YAML.",
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return file
