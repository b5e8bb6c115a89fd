"""Where artifacts are kept: by their sha256, written once, never changed.

Two real ones: `DirectoryStore` on this disk and `S3Store` in a bucket. They pass the same contract
tests. Of both holds: nothing is under its name before its bytes were found to be what the name
says, and no call holds more of a file in memory than a few of its chunks.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from mailboat_schemas.documents.release import File
from mailboat_schemas.errors import (
    ArtifactMissing,
    DigestMismatch,
    DiskFull,
    MalformedPayload,
    PayloadTooLarge,
)

CHUNK_BYTES = 256 * 1024  # of a download: every slow one may hold so much of our memory
COPY_BYTES = 4 << 20  # of a copy or a check, of which there are few at a time
# What the database and its log must still find on this disk after an upload or a copy.
DISK_MARGIN_BYTES = 64 << 20
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Entry:
    """One artifact that is here. ``length`` in bytes."""

    digest: str
    length: int


class Upload(Protocol):
    """One upload on its way. Leaving the block without `commit` leaves nothing behind."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def write(self, chunk: bytes) -> None:
        """
        Raises:
            MalformedPayload: more bytes than announced.
            DiskFull: there is no more room.
            ObjectStoreUnavailable, ObjectStoreRefused: of a bucket.
        """
        ...

    def commit(self) -> None:
        """Check what came and put it in its place; durable when this returns.

        Raises:
            DigestMismatch, MalformedPayload: it is not what it was said to be.
            And what `write` raises.
        """
        ...

    def abort(self) -> None:
        """Safe to call at any time, also after `commit`."""
        ...


class ArtifactStore(Protocol):
    """Every method may be called from any thread.

    Those that take a digest raise MalformedPayload for one that is none. A bucket may be out of
    reach (ObjectStoreUnavailable) or refuse us (ObjectStoreRefused) in every one of them.
    """

    kind: str  # directory or s3

    @property
    def place(self) -> str:
        """For people: a path, or bucket and prefix."""
        ...

    def check(self) -> None:
        """Whether it can be read and written; the error says what to do."""
        ...

    def remove_parts(self) -> int:
        """Remove what uploads left behind when the controller died; only at start."""
        ...

    def length(self, digest: str) -> int | None:
        """Size in bytes, or None when it is not here."""
        ...

    def read(
        self,
        digest: str,
        start: int = 0,
        end: int | None = None,
        *,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> Iterator[bytes]:
        """The bytes from ``start`` up to but without ``end``, in chunks. Not checked here.

        Raises:
            ArtifactMissing: not here (yet); with the first chunk.
        """
        ...

    def local_file(self, digest: str) -> AbstractContextManager[Path]:
        """The artifact as a file on this disk, to read: itself, or a checked copy for a while.

        Raises:
            ArtifactMissing, DiskFull; DigestMismatch: of a copy whose bytes are damaged.
        """
        ...

    def begin(self, digest: str, length: int) -> Upload:
        """Start an upload of exactly ``length`` bytes.

        Raises:
            PayloadTooLarge: over the bound of one artifact.
            DiskFull: there is no room.
        """
        ...

    def entries(self, after: str = "") -> Iterator[Entry]:
        """Everything that is here, by digest, from the first one after ``after``."""
        ...

    def delete(self, digest: str) -> bool:
        """Remove it; False when it was not here."""
        ...

    def quarantine(self, digest: str) -> None:
        """Take damaged bytes out of their place, and keep them for a look."""
        ...

    def quarantined(self) -> tuple[Entry, ...]:
        """What was taken out and is still kept."""
        ...

    def discard(self, digest: str) -> None:
        """Throw away what was taken out."""
        ...

    def presigned(self, digest: str, life: timedelta) -> str | None:
        """An address that gives the bytes to whoever holds it, for so long; None: there is none."""
        ...

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
            self.put(digest, iter(lambda: file.read(COPY_BYTES), b""), length)
        return digest


class Measure:
    """What came of an upload so far: how many bytes, and which."""

    def __init__(self, digest: str, length: int) -> None:
        self._digest = digest
        self._length = length
        self._left = length
        self._hash = hashlib.sha256()

    def take(self, chunk: bytes) -> None:
        """
        Raises:
            MalformedPayload: more bytes than announced.
        """
        self._left -= len(chunk)
        if self._left < 0:
            raise self._wrong_length("more than")
        self._hash.update(chunk)

    def require(self) -> None:
        """
        Raises:
            MalformedPayload: fewer bytes than announced.
            DigestMismatch: others than the name says.
        """
        if self._left > 0:
            raise self._wrong_length(f"only {self._length - self._left} of")
        if self._hash.hexdigest() != self._digest:
            raise DigestMismatch("The uploaded artifact", self._digest, self._hash.hexdigest())

    def _wrong_length(self, what: str) -> MalformedPayload:
        return MalformedPayload(
            f"The upload of {self._digest} brought {what} the {self._length} bytes it announced.",
            next_step="upload it again; the connection may have broken.",
        )


def require_digest(digest: str) -> str:
    """
    Raises:
        MalformedPayload: not a sha256 in lower-case hex, so it could name another place.
    """
    if not is_digest(digest):
        raise MalformedPayload(
            f"{digest[:80]!r} is not a sha256.",
            next_step="name artifacts by 64 lower-case hex digits.",
        )
    return digest


def is_digest(text: str) -> bool:
    return len(text) == 64 and _HEX.issuperset(text)


def require_size(length: int, bytes_max: int) -> None:
    """
    Raises:
        PayloadTooLarge
    """
    if length > bytes_max:
        raise PayloadTooLarge("artifact", length, bytes_max)


def missing_artifact(digest: str) -> ArtifactMissing:
    return ArtifactMissing(
        f"The artifact {digest} is not here.",
        next_step="upload it with `mailboat release submit`; devices try again by themselves.",
    )


def disk_full(digest: str) -> DiskFull:
    return DiskFull(
        f"There is no room for the artifact {digest}.",
        next_step="free space where the controller keeps its artifacts, then upload again.",
    )
