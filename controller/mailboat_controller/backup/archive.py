"""What a backup holds: a tar of named files, and at its end what each of them must be.

A name is looked at before anything is written: only those places of a data directory that
`PLACES` names, never a link, never outside of it.
"""

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from mailboat_controller.backup.sealed_stream import BackupUnusable
from mailboat_schemas.errors import ConfigurationInvalid

MANIFEST = "manifest.json"
DATABASE = "mailboat.db"
VERSION = 1
MANIFEST_BYTES_MAX = 64 << 20
FILES_MAX = 1_000_000
CHUNK_BYTES = 1 << 20
# Of a data directory; what is not here is made anew, or is somebody's own.
PLACES = ("controller.toml", "keys", "pki", "trust", "content-keys", "tokens", "webhooks")
ARTIFACTS = "artifacts"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,7}")

Advance = Callable[[int], None]  # bytes done since the last call


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """``schema`` is the database's migration; the audit log ends with ``audit_head``."""

    fleet: str
    made_at: str  # ISO 8601, by the controller's clock
    made_by: str  # version of mailboat
    schema: str
    origin: str  # sqlite | postgresql
    rows: int
    audit_entries: int
    audit_head: str
    artifacts: bool
    files: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # sha256 and bytes

    def as_json(self) -> bytes:
        content = {"backup": "mailboat", "version": VERSION, **asdict(self)}
        return json.dumps(content, indent=1, sort_keys=True).encode()


def read_manifest(content: bytes) -> Manifest:
    """
    Raises:
        BackupUnusable: it is none of this version.
    """
    try:
        fields: dict[str, Any] = json.loads(content)
        told = fields.pop("backup"), fields.pop("version")
        files = {name: (str(sha), int(size)) for name, (sha, size) in fields.pop("files").items()}
        manifest = Manifest(**fields, files=files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackupUnusable(
            f"The backup's list of contents cannot be read: {error}.",
            next_step="read it with the version of mailboat that made it, or a newer one.",
        ) from error
    if told != ("mailboat", VERSION):
        raise BackupUnusable(
            f"The backup's list of contents is of version {told[1]!r}.",
            next_step="read it with the version of mailboat that made it, or a newer one.",
        )
    return manifest


def files_of(data_dir: Path, *, artifacts: bool) -> list[tuple[str, Path]]:
    """What of a data directory belongs into a backup, by name within it.

    Raises:
        ConfigurationInvalid: a name there that no backup could bring back.
    """
    found: list[tuple[str, Path]] = []
    for place in (*PLACES, *([ARTIFACTS] if artifacts else [])):
        root = data_dir / place
        paths = [root] if root.is_file() else sorted(root.rglob("*"))
        for path in paths:
            name = str(path.relative_to(data_dir))
            if path.is_symlink() or not path.is_file() or path.suffix in (".new", ".part"):
                continue
            if _NAME.fullmatch(name) is None:
                raise ConfigurationInvalid(
                    f"{path} has a name that no backup brings back.",
                    next_step="move it elsewhere; nothing of ours is called so.",
                )
            found.append((name, path))
    return found


class Writer:
    """Adds files to a tar, and the list of them at its end."""

    def __init__(self, file: IO[bytes], advance: Advance) -> None:
        self._tar = tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._advance = advance
        self._files: dict[str, tuple[str, int]] = {}

    def add(self, name: str, path: Path) -> None:
        with path.open("rb") as file:
            info = tarfile.TarInfo(name)
            # Of what was opened: another file may have taken its name since.
            info.size = os.fstat(file.fileno()).st_size
            info.mode = 0o600
            counted = _Counted(file, info.size, self._advance)
            self._tar.addfile(info, counted)
        self._files[name] = (counted.digest, info.size)

    def finish(self, manifest: Manifest) -> Manifest:
        whole = Manifest(**{**_fields(manifest), "files": self._files})
        content = whole.as_json()
        info = tarfile.TarInfo(MANIFEST)
        info.size, info.mode = len(content), 0o600
        self._tar.addfile(info, _bytes(content))
        self._tar.close()
        return whole


def read(file: IO[bytes], place: Path | None, advance: Advance) -> Manifest:
    """Take everything out of an archive into a new directory, and check it; without one, check.

    Raises:
        BackupUnusable: a file is missing, is another one, or has a name that has no place here.
    """
    found: dict[str, tuple[str, int]] = {}
    manifest = None
    try:
        with tarfile.open(fileobj=file, mode="r|") as tar:
            for info in tar:
                content = tar.extractfile(info) if info.isreg() else None
                if content is None or manifest is not None or len(found) > FILES_MAX:
                    raise _wrong(info.name)
                if info.name == MANIFEST:
                    manifest = read_manifest(content.read(MANIFEST_BYTES_MAX))
                    continue
                if not _has_place(info.name) or info.name in found:
                    raise _wrong(info.name)
                target = None if place is None else place / info.name
                found[info.name] = _take(content, target, advance)
        file.read(1)  # to the end of what is sealed, which has to be there
    except (tarfile.TarError, EOFError) as error:
        raise BackupUnusable(
            f"The backup is no archive: {error}.", next_step="take another copy of it."
        ) from error
    if manifest is None:
        raise BackupUnusable(
            "The backup ends before its list of contents.", next_step="take another copy of it."
        )
    _refuse_differences(manifest, found)
    return manifest


def _refuse_differences(manifest: Manifest, found: Mapping[str, tuple[str, int]]) -> None:
    wrong = sorted(
        name
        for name in manifest.files.keys() | found.keys()
        if manifest.files.get(name) != found.get(name)
    )
    if wrong:
        raise BackupUnusable(
            f"{len(wrong)} files of the backup are not what its list says, such as {wrong[0]}.",
            next_step="take another copy of it, or an older backup.",
        )


def _has_place(name: str) -> bool:
    first = name.partition("/")[0]
    return _NAME.fullmatch(name) is not None and (
        name == DATABASE or first in PLACES or first == ARTIFACTS
    )


def _take(content: IO[bytes], target: Path | None, advance: Advance) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    if target is None:
        for chunk in _chunks(content):
            digest.update(chunk)
            size += len(chunk)
            advance(len(chunk))
        return digest.hexdigest(), size
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with target.open("xb") as file:
        target.chmod(0o600)
        for chunk in _chunks(content):
            digest.update(chunk)
            size += len(chunk)
            file.write(chunk)
            advance(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest(), size


def _chunks(content: IO[bytes]) -> Iterable[bytes]:
    while chunk := content.read(CHUNK_BYTES):
        yield chunk


class _Counted:
    """A file that is hashed and counted as it is read; as long as it was when it was begun."""

    def __init__(self, file: IO[bytes], size: int, advance: Advance) -> None:
        self._file = file
        self._left = size
        self._advance = advance
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(chunk)
        self._digest.update(chunk)
        self._advance(len(chunk))
        return chunk


def _bytes(content: bytes) -> IO[bytes]:
    import io

    return io.BytesIO(content)


def _fields(manifest: Manifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in Manifest.__slots__}


def _wrong(name: str) -> BackupUnusable:
    return BackupUnusable(
        f"The backup holds something that has no place in a data directory: {name[:200]!r}.",
        next_step="it was not made by `mailboat backup`, or was changed; take another one.",
    )
