"""What a controller would build between two releases, tried on a publisher's own disk."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from mailboat_controller.delta_builds import making
from mailboat_controller.delta_builds.wanted import counterpart
from mailboat_controller.releases.build import DOCUMENT_NAME, Build, read_build
from mailboat_schemas.documents.release import File, Variant
from mailboat_schemas.errors import NotFound

BUILDS_MAX = 1000  # directories that are looked into


def explain_builds(
    directory: Path,
    model: str,
    base_version: str,
    version: str,
    hardware_class: str | None,
    *,
    memory_bytes_max: int,
) -> list[dict[str, Any]]:
    """As the controller explains it, for builds below ``directory``. Blocking.

    Raises:
        NotFound: no build of one of the two is there, or none for this class.
        OSError
    """
    old, new = (_find(directory, model, each) for each in (base_version, version))
    found: list[dict[str, Any]] = []
    for variant in new.document.variants:
        for name in variant.hardware_classes:
            if hardware_class in (None, name):
                before = old.document.variant_for(name)
                found += [
                    _explained(name, file, old, new, before, memory_bytes_max)
                    for file in variant.files
                ]
    if not found:
        raise NotFound(
            f"{model} {version} has nothing for class {hardware_class}.",
            next_step="name a class of the release with --class.",
        )
    return found


def _explained(
    name: str, file: File, old: Build, new: Build, before: Variant | None, memory_bytes_max: int
) -> dict[str, Any]:
    files = () if before is None else before.files
    note, base = "", counterpart(file, files)
    if any(each.artifact_digest == file.artifact_digest for each in files):
        note = "unchanged: nothing is fetched"
    elif file.sealed is not None:
        note = "encrypted: it comes whole"
    rows: list[dict[str, Any]] = []
    if not note:
        note = "" if base is not None else "the older release has no file that takes its part"
        with tempfile.TemporaryDirectory() as scratch:
            way = making.explain(
                None if base is None else old.blob(base),
                new.blob(file),
                memory_bytes_max=memory_bytes_max,
                scratch=Path(scratch),
            )
        rows = [dataclasses.asdict(row) for row in way]
    return {
        "hardware_class": name,
        "path": file.path,
        "role": file.role.value,
        "length": file.artifact_length,
        "note": note,
        "delta": None,
        "full": None,
        "candidates": rows,
    }


def _find(directory: Path, model: str, version: str) -> Build:
    places = sorted(path.parent for path in directory.glob(f"**/{DOCUMENT_NAME}"))
    for place in places[:BUILDS_MAX]:
        built = read_build(place)
        if (built.document.model, built.document.version) == (model, version):
            return built
    raise NotFound(
        f"There is no build of {model} {version} below {directory}.",
        next_step="make it with `mailboat release build`, or name the directory above the builds.",
    )
