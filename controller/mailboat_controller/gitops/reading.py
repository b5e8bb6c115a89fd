"""A directory of YAML as documents: every file of it, or none.

A mistake anywhere stops before anything is compared or sent, so that half of a change is never
taken for the whole of it.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailboat_controller.gitops.kinds import KINDS, Declared, rank
from mailboat_schemas.documents.document import Document
from mailboat_schemas.documents.rollout import Rollout
from mailboat_schemas.documents.yaml_source import (
    DOCUMENT_BYTES_MAX,
    parse_documents,
)
from mailboat_schemas.errors import DocumentInvalid

FILES_MAX = 500
DOCUMENTS_MAX = 1000
DIRECTORIES_MAX = 500
BYTES_MAX = 512 * 1024  # of all files
SENT_BYTES_MAX = 960 * 1024  # as JSON: the controller takes a body of 1 MiB
SUFFIXES = frozenset({".yaml", ".yml"})


@dataclass(frozen=True, slots=True)
class Source:
    """One document and where it was written: ``file:line``."""

    document: Document
    place: str

    @property
    def key(self) -> tuple[str, str]:
        return key_of(self.document)


def key_of(document: Document) -> tuple[str, str]:
    """Kind and name."""
    content: Any = document
    return (content.kind, content.metadata.name)


def read_tree(path: Path) -> tuple[Source, ...]:
    """The documents of one file, or of every ``.yaml`` and ``.yml`` below a directory.

    Hidden files and directories are left out. A link may lead to a place inside the directory and
    nowhere else.

    Raises:
        DocumentInvalid: with file, line and column.
    """
    if not path.is_dir():
        return read_files([(str(path), _content(path))])
    root = path.resolve()
    files = []
    for file in sorted(_files(path)):
        if not file.resolve().is_relative_to(root):
            raise DocumentInvalid(
                str(file),
                "is a link that leads out of the directory",
                next_step="put the file itself there.",
            )
        files.append((str(file), _content(file)))
    return read_files(files)


def read_files(files: Iterable[tuple[str, bytes]]) -> tuple[Source, ...]:
    """Documents of files that are read already, in the order of application.

    Raises:
        DocumentInvalid: also for two documents of one kind and name, and for too many.
    """
    found: dict[tuple[str, str], Source] = {}
    size_bytes = 0
    for number, (name, content) in enumerate(files, start=1):
        size_bytes += len(content)
        if number > FILES_MAX or size_bytes > BYTES_MAX:
            raise _too_many(name)
        placed_here = parse_documents(content, KINDS, source=name)
        for placed in placed_here:
            if isinstance(placed.document, Rollout) and len(placed_here) > 1:
                raise DocumentInvalid(
                    placed.place,
                    "is a Rollout beside other documents",
                    next_step="give it a file of its own: that is what an approver signs.",
                )
            source = Source(placed.document, placed.place)
            kind, label = source.key
            if source.key in found:
                raise DocumentInvalid(
                    source.place,
                    f"{kind} {label} stands in {found[source.key].place} already",
                    next_step="keep one of them, or give this one another name.",
                )
            found[source.key] = source
            if len(found) > DOCUMENTS_MAX:
                raise _too_many(source.place)
    if not found:
        raise DocumentInvalid(
            "the directory",
            "holds no documents",
            next_step="name a file, or a directory with .yaml or .yml files.",
        )
    return tuple(sorted(found.values(), key=lambda each: (rank(each.key[0]), each.key[1])))


def as_sent(sources: Sequence[Source]) -> list[Mapping[str, Any]]:
    """As the controller takes them: what was not written is not sent.

    Raises:
        DocumentInvalid: more than it would take.
    """
    found: list[Mapping[str, Any]] = [plain(each.document) for each in sources]
    if len(json.dumps(found, ensure_ascii=False).encode()) > SENT_BYTES_MAX:
        raise _too_many(sources[-1].place)
    return found


def plain(document: Document) -> Mapping[str, Any]:
    return document.model_dump(mode="json", by_alias=True, exclude_unset=True)


def rollouts_of(documents: Iterable[Declared]) -> Mapping[str, tuple[Rollout, ...]]:
    """By model."""
    found: dict[str, tuple[Rollout, ...]] = {}
    for each in documents:
        if isinstance(each, Rollout):
            model = each.spec.release.model
            found[model] = (*found.get(model, ()), each)
    return found


def _files(root: Path) -> list[Path]:
    found: list[Path] = []
    # Does not follow links to directories.
    for directories, (place, names, files) in enumerate(os.walk(root), start=1):
        if directories > DIRECTORIES_MAX:
            raise _too_many(place)
        names[:] = sorted(name for name in names if not name.startswith("."))
        found += [
            Path(place) / name
            for name in files
            if not name.startswith(".") and Path(name).suffix in SUFFIXES
        ]
        if len(found) > FILES_MAX:
            raise _too_many(place)
    return found


def _content(path: Path) -> bytes:
    problem = "is no file"
    try:
        if path.is_file():  # a pipe would never end
            with path.open("rb") as file:
                return file.read(DOCUMENT_BYTES_MAX + 1)  # one more is enough to be refused for
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    raise DocumentInvalid(str(path), problem, next_step="check the path.")


def _too_many(place: str) -> DocumentInvalid:
    return DocumentInvalid(
        place,
        f"is over what one set takes: {FILES_MAX} files in {DIRECTORIES_MAX} directories, "
        f"{DOCUMENTS_MAX} documents, {BYTES_MAX} bytes",
        next_step="make two sets of it, each a directory of its own.",
    )
