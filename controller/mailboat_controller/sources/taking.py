"""Taking a release's files from a source into a build directory, with a name for where from.

```text
source/<name>          what was fetched, as the release's YAML names it
source/<name>.part     on its way; the next try goes on there
source/.fetched.json   which content of a name this is, so that a changed one is fetched anew
```
"""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from mailboat_controller.byte_stream import receive
from mailboat_controller.durable_file import PUBLIC_MODE, replace_durably
from mailboat_controller.sources.source import (
    PART_SUFFIX,
    RemoteFile,
    Source,
    SourceRefused,
    checked,
)
from mailboat_schemas.documents.release import ReleaseSource
from mailboat_schemas.documents.yaml_source import load_document
from mailboat_schemas.errors import ConfigurationInvalid, DigestMismatch, DiskFull, NotFound

DIRECTORY = "source"
RELEASE_YAML = "release.yaml"
GIVEN_YAML = "release.given.yaml"
YAML_BYTES_MAX = 1 << 20
_FETCHED = ".fetched.json"
_READ_BYTES = 1 << 20

Progress = Callable[[str, int], None]  # a file's name, and bytes of it since the last call


@dataclass(frozen=True, slots=True)
class Taken:
    """``yaml`` is beside the files it names; ``reference`` goes into the release document."""

    yaml: Path
    reference: str
    files: int
    bytes: int


def take(
    source: Source, where: str, directory: Path, given: Path | None, on_progress: Progress
) -> Taken:
    """Fetch the release's YAML, unless one is given, and the files that it names; no others.

    Raises:
        SourceRefused, DigestMismatch: of what is offered.
        NotFound: a file that the YAML names, or the YAML itself, is not there.
        DocumentInvalid: the YAML. DiskFull: here.
        ServerUnavailable, DownloadInterrupted: a retry goes on.
    """
    place = directory / DIRECTORY
    _make(place)
    offered = {file.name: file for file in checked(source.files(), where)}
    fetched = _Fetched(place, source, on_progress)
    if given is not None:
        yaml = place / GIVEN_YAML
        _copy_yaml(given, yaml)
    else:
        found = offered.get(RELEASE_YAML)
        if found is None:
            raise NotFound(
                f"{where} has no {RELEASE_YAML}.",
                next_step=f"push one with the files, or name yours with --release; it offers "
                f"{', '.join(sorted(offered)[:10]) or 'nothing'}.",
            )
        if found.length > YAML_BYTES_MAX:
            raise SourceRefused(
                f"{RELEASE_YAML} has {found.length} bytes.", next_step="is it the right file?"
            )
        yaml = fetched.bring(found)
    written = load_document(yaml, ReleaseSource)
    named = {each.source for variant in written.spec.variants for each in variant.files}
    lacking = sorted(named - offered.keys())
    if lacking:
        raise NotFound(
            f"{where} has no {lacking[0]!r}, which {yaml.name} names.",
            next_step=f"it offers {', '.join(sorted(offered)[:10]) or 'nothing'}.",
        )
    for name in sorted(named):
        fetched.bring(offered[name])
    return Taken(
        yaml=yaml,
        reference=source.reference(tree_digest(fetched.digests.items())),
        files=len(fetched.digests),
        bytes=sum(offered[name].length for name in fetched.digests),
    )


def fetch(
    source: Source, files: Iterable[RemoteFile], directory: Path, on_progress: Progress
) -> dict[str, str]:
    """Fetch these files, without a YAML that names them; sha256 by name. Goes on where it stopped.

    Raises:
        DigestMismatch: of what is offered. DiskFull: here.
        ServerUnavailable, DownloadInterrupted: a retry goes on.
    """
    place = directory / DIRECTORY
    _make(place)
    fetched = _Fetched(place, source, on_progress)
    for file in files:
        fetched.bring(file)
    return fetched.digests


def tree_digest(digests: Iterable[tuple[str, str]]) -> str:
    """Of files by name and sha256: the sha256 of what `sha256sum` prints for them, by name."""
    lines = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


class _Fetched:
    """Files here, by name, and which content of the name they are."""

    def __init__(self, place: Path, source: Source, on_progress: Progress) -> None:
        self._place = place
        self._source = source
        self._on_progress = on_progress
        self._versions = _read_versions(place / _FETCHED)
        self.digests: dict[str, str] = {}

    def bring(self, file: RemoteFile) -> Path:
        path = self._place / file.name
        part = path.with_name(path.name + PART_SUFFIX)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._versions.get(file.name) != file.version:
                path.unlink(missing_ok=True)
                part.unlink(missing_ok=True)
                self._versions[file.name] = file.version
                content = json.dumps(self._versions, sort_keys=True).encode()
                replace_durably(self._place / _FETCHED, content, mode=PUBLIC_MODE)
            self.digests[file.name] = self._bring(file, path, part)
        except OSError as error:
            raise _explained(error, path) from error
        return path

    def _bring(self, file: RemoteFile, path: Path, part: Path) -> str:
        """The sha256 of what is at ``path`` now. Raises OSError."""
        if path.is_file() and path.stat().st_size == file.length:
            found = _hash(path)
            if file.sha256 in (None, found):
                self._on_progress(file.name, file.length)
                return found
        digest = hashlib.sha256()
        with part.open("a+b") as writer:
            if writer.tell() > file.length:
                writer.truncate(0)
            writer.seek(0)
            while chunk := writer.read(_READ_BYTES):
                digest.update(chunk)
            here = writer.tell()
            self._on_progress(file.name, here)
            opener = self._source.open_at(file)
            for chunk in receive(opener, begin=here, length=file.length):
                writer.write(chunk)
                digest.update(chunk)
                self._on_progress(file.name, len(chunk))
            writer.flush()
            os.fsync(writer.fileno())
        if file.sha256 not in (None, digest.hexdigest()):
            part.unlink()
            raise DigestMismatch(file.name, str(file.sha256), digest.hexdigest())
        part.replace(path)
        return digest.hexdigest()


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_versions(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_bytes())
        return {str(name): str(version) for name, version in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}  # everything is fetched anew


def _copy_yaml(given: Path, to: Path) -> None:
    try:
        with given.open("rb") as file:
            content = file.read(YAML_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigurationInvalid(
            f"{given} cannot be read: {error.strerror}.", next_step="name a YAML of kind Release."
        ) from error
    if len(content) > YAML_BYTES_MAX:
        raise ConfigurationInvalid(
            f"{given} is over {YAML_BYTES_MAX} bytes.", next_step="is it the right file?"
        )
    try:
        replace_durably(to, content, mode=PUBLIC_MODE)
    except OSError as error:
        raise _explained(error, to) from error


def _make(place: Path) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _explained(error, place) from error


def _explained(error: OSError, path: Path) -> DiskFull | ConfigurationInvalid:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"There is no room for {path}.", next_step="make room and run it again.")
    return ConfigurationInvalid(
        f"{path} cannot be written: {error.strerror}.", next_step="name another directory."
    )
