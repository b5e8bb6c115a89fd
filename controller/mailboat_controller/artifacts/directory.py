"""Artifacts in a directory of this disk.

An upload is hashed while it is written beside its place; only bytes that match their name are
renamed into it. Two uploads of one artifact may run at once: both write their own part, and the
later rename puts the same bytes where they already are.
"""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from mailboat_controller.artifacts.artifact_store import (
    CHUNK_BYTES,
    DISK_MARGIN_BYTES,
    ArtifactStore,
    Entry,
    Measure,
    disk_full,
    is_digest,
    missing_artifact,
    require_digest,
    require_size,
)
from mailboat_controller.durable_file import fsync_directory
from mailboat_schemas.documents.release import ARTIFACT_BYTES_MAX
from mailboat_schemas.errors import ConfigurationInvalid

_ARTIFACT_MODE = 0o444
_INCOMING = "incoming"
_QUARANTINE = "quarantine"


def disk_free_bytes(path: Path) -> int:
    return shutil.disk_usage(path).free


class DirectoryStore(ArtifactStore):
    """``<2 hex>/<sha256>``; ``incoming/`` for what is not proven yet, ``quarantine/`` for what was
    found damaged."""

    kind = "directory"

    def __init__(
        self,
        directory: Path,
        *,
        bytes_max: int = ARTIFACT_BYTES_MAX,
        free_bytes: Callable[[Path], int] = disk_free_bytes,
    ) -> None:
        self._directory = directory
        self._incoming = directory / _INCOMING
        self._quarantine = directory / _QUARANTINE
        self._bytes_max = bytes_max
        self._free_bytes = free_bytes
        self._incoming.mkdir(parents=True, exist_ok=True)

    @property
    def place(self) -> str:
        return str(self._directory)

    def check(self) -> None:
        """
        Raises:
            ConfigurationInvalid: this user cannot write there.
        """
        probe = self._incoming / f"{secrets.token_hex(8)}.part"
        try:
            probe.touch(exist_ok=False)
            probe.unlink()
        except OSError as error:
            raise ConfigurationInvalid(
                f"Nothing can be written to {self._directory}: {error.strerror}.",
                next_step="let the user that runs `mailboat serve` own it, on a disk with room.",
            ) from error

    def remove_parts(self) -> int:
        parts = list(self._incoming.glob("*.part"))
        for part in parts:
            part.unlink(missing_ok=True)
        return len(parts)

    def path(self, digest: str) -> Path:
        """Where an artifact is, or would be.

        Raises:
            MalformedPayload: not a sha256.
        """
        return self._directory / require_digest(digest)[:2] / digest

    def length(self, digest: str) -> int | None:
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def read(
        self,
        digest: str,
        start: int = 0,
        end: int | None = None,
        *,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> Iterator[bytes]:
        try:
            file = self.path(digest).open("rb")
        except FileNotFoundError as error:
            raise missing_artifact(digest) from error
        with file:
            left = os.fstat(file.fileno()).st_size - start if end is None else end - start
            file.seek(start)
            while left > 0 and (chunk := file.read(min(chunk_bytes, left))):
                left -= len(chunk)
                yield chunk

    @contextlib.contextmanager
    def local_file(self, digest: str) -> Iterator[Path]:
        path = self.path(digest)
        if not path.is_file():
            raise missing_artifact(digest)
        yield path

    def begin(self, digest: str, length: int) -> "DirectoryUpload":
        path = self.path(digest)
        require_size(length, self._bytes_max)
        # Beside the artifact, the database and its log need room too.
        if self._free_bytes(self._incoming) < length + DISK_MARGIN_BYTES:
            raise disk_full(digest)
        return DirectoryUpload(self._incoming, path, digest, length)

    def entries(self, after: str = "") -> Iterator[Entry]:
        for directory in sorted(self._directory.glob("[0-9a-f][0-9a-f]")):
            if directory.name < after[:2]:
                continue
            for path in sorted(directory.iterdir()):
                if path.name <= after or not is_digest(path.name):
                    continue
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    yield Entry(path.name, path.stat().st_size)

    def delete(self, digest: str) -> bool:
        path = self.path(digest)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        fsync_directory(path.parent)
        return True

    def quarantine(self, digest: str) -> None:
        path = self.path(digest)
        self._quarantine.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.replace(self._quarantine / digest)
            fsync_directory(path.parent)
            fsync_directory(self._quarantine)

    def quarantined(self) -> tuple[Entry, ...]:
        return tuple(
            Entry(path.name, path.stat().st_size)
            for path in sorted(self._quarantine.glob("*"))
            if is_digest(path.name)
        )

    def discard(self, digest: str) -> None:
        (self._quarantine / require_digest(digest)).unlink(missing_ok=True)

    def presigned(self, digest: str, life: timedelta) -> str | None:
        del digest, life
        return None


class DirectoryUpload:
    """An `Upload` into a part beside the artifact's place."""

    def __init__(self, incoming: Path, path: Path, digest: str, length: int) -> None:
        self._path = path
        self._digest = digest
        self._measure = Measure(digest, length)
        self._part = incoming / f"{digest}.{secrets.token_hex(8)}.part"
        try:
            self._file = self._part.open("xb")
        except OSError as error:
            raise _explained(error, digest) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    def write(self, chunk: bytes) -> None:
        self._measure.take(chunk)
        try:
            self._file.write(chunk)
        except OSError as error:
            raise _explained(error, self._digest) from error

    def commit(self) -> None:
        self._measure.require()
        try:
            self._file.flush()
            os.fchmod(self._file.fileno(), _ARTIFACT_MODE)
            os.fsync(self._file.fileno())
            self._file.close()
            self._path.parent.mkdir(exist_ok=True)
            self._part.replace(self._path)
            fsync_directory(self._path.parent)
            fsync_directory(self._path.parent.parent)  # the first artifact of its two digits
        except OSError as error:
            raise _explained(error, self._digest) from error

    def abort(self) -> None:
        # Flushing the last bytes may meet a full disk; they are thrown away anyhow.
        with contextlib.suppress(OSError):
            self._file.close()
        self._part.unlink(missing_ok=True)


def _explained(error: OSError, digest: str) -> Exception:
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    return disk_full(digest) if full else error
