"""The artifact store: files named by their sha256, written once and never changed.

An upload is hashed while it is written beside its place; only bytes that match their name are
renamed into it. Two uploads of one artifact may run at once: both write their own part, and the
later rename puts the same bytes where they already are.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from mailboat_controller.durable_file import fsync_directory
from mailboat_schemas.documents.release import ARTIFACT_BYTES_MAX, File
from mailboat_schemas.errors import (
    ArtifactMissing,
    DigestMismatch,
    DiskFull,
    MalformedPayload,
    PayloadTooLarge,
)

DISK_MARGIN_BYTES = 64 << 20  # what the database and its log must still find after an upload
_CHUNK_BYTES = 1 << 20
_ARTIFACT_MODE = 0o444
_HEX = frozenset("0123456789abcdef")


def disk_free_bytes(path: Path) -> int:
    return shutil.disk_usage(path).free


class Artifacts:
    """A directory ``<2 hex>/<sha256>``, and ``incoming/`` for what is not proven yet."""

    def __init__(
        self,
        directory: Path,
        *,
        bytes_max: int = ARTIFACT_BYTES_MAX,
        free_bytes: Callable[[Path], int] = disk_free_bytes,
    ) -> None:
        self._directory = directory
        self._incoming = directory / "incoming"
        self._bytes_max = bytes_max
        self._free_bytes = free_bytes
        self._incoming.mkdir(parents=True, exist_ok=True)

    def remove_parts(self) -> int:
        """Remove what uploads left behind when the controller died; only at start."""
        parts = list(self._incoming.glob("*.part"))
        for part in parts:
            part.unlink(missing_ok=True)
        return len(parts)

    def path(self, digest: str) -> Path:
        """Where an artifact is, or would be.

        Raises:
            MalformedPayload: not a sha256 in lower-case hex, so it could name another place.
        """
        if len(digest) != 64 or not _HEX.issuperset(digest):
            raise MalformedPayload(
                f"{digest[:80]!r} is not a sha256.",
                next_step="name artifacts by 64 lower-case hex digits.",
            )
        return self._directory / digest[:2] / digest

    def length(self, digest: str) -> int | None:
        """Size in bytes, or None when it is not here."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def has(self, digest: str, length: int | None = None) -> bool:
        """Whether it is here, and of that length when one is given."""
        held = self.length(digest)
        return held is not None and length in (None, held)

    def missing(self, files: Iterable[File]) -> tuple[str, ...]:
        """Digests of those files that must still be uploaded."""
        return tuple(
            file.artifact_digest
            for file in files
            if not self.has(file.artifact_digest, file.artifact_length)
        )

    def open(self, digest: str) -> BinaryIO:
        """
        Raises:
            ArtifactMissing: not here (yet).
        """
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError as error:
            raise missing_artifact(digest) from error

    def begin(self, digest: str, length: int) -> "Upload":
        """Start an upload of exactly ``length`` bytes.

        Raises:
            PayloadTooLarge: over the bound of one artifact.
            DiskFull: it would not leave room for the database.
        """
        path = self.path(digest)
        if length > self._bytes_max:
            raise PayloadTooLarge("artifact", length, self._bytes_max)
        if self._free_bytes(self._incoming) < length + DISK_MARGIN_BYTES:
            raise _disk_full(digest)
        return Upload(self._incoming, path, digest, length)

    def put(self, digest: str, stream: Iterable[bytes], length: int) -> bool:
        """Store an artifact; False when it was here already, and the stream is not read then.

        Raises:
            DigestMismatch: the bytes are others than the name says.
            MalformedPayload: more or fewer bytes than announced.
            PayloadTooLarge, DiskFull: see `begin`.
        """
        if self.has(digest, length):
            return False
        with self.begin(digest, length) as upload:
            for chunk in stream:
                upload.write(chunk)
            upload.commit()
        return True

    def put_file(self, source: Path) -> str:
        """Store a file from this disk; returns its digest."""
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            length = file.seek(0, os.SEEK_END)
            file.seek(0)
            self.put(digest, iter(lambda: file.read(_CHUNK_BYTES), b""), length)
        return digest


class Upload:
    """One upload on its way. Leaving the block without `commit` leaves nothing behind."""

    def __init__(self, incoming: Path, path: Path, digest: str, length: int) -> None:
        self._path = path
        self._digest = digest
        self._left = length
        self._length = length
        self._hash = hashlib.sha256()
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
        """
        Raises:
            MalformedPayload: more bytes than announced.
            DiskFull: the disk took no more.
        """
        self._left -= len(chunk)
        if self._left < 0:
            raise self._wrong_length("more than")
        self._hash.update(chunk)
        try:
            self._file.write(chunk)
        except OSError as error:
            raise _explained(error, self._digest) from error

    def commit(self) -> None:
        """Check what came and put it in its place; durable when this returns."""
        if self._left > 0:
            raise self._wrong_length(f"only {self._length - self._left} of")
        if self._hash.hexdigest() != self._digest:
            raise DigestMismatch("The uploaded artifact", self._digest, self._hash.hexdigest())
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

    def _wrong_length(self, what: str) -> MalformedPayload:
        return MalformedPayload(
            f"The upload of {self._digest} brought {what} the {self._length} bytes it announced.",
            next_step="upload it again; the connection may have broken.",
        )


def missing_artifact(digest: str) -> ArtifactMissing:
    return ArtifactMissing(
        f"The artifact {digest} is not here.",
        next_step="upload it with `mailboat release publish`; devices try again by themselves.",
    )


def _disk_full(digest: str) -> DiskFull:
    return DiskFull(
        f"There is no room for the artifact {digest}.",
        next_step="free space where the controller keeps its artifacts, then upload again.",
    )


def _explained(error: OSError, digest: str) -> Exception:
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    return _disk_full(digest) if full else error
