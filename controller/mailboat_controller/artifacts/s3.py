"""Artifacts in a bucket of S3, or of what speaks like it.

An upload is a multipart upload to the artifact's own key that is completed only when the hash is
right. Until then nothing is under the key (S3 shows an object when its upload is complete, whole
or not at all), and nothing has to be copied afterwards: a copy is limited to 5 GiB, one artifact
here to 8, and would read and write every byte once more. Leaving an upload aborts it. What a
controller that was killed had begun is invisible and is ended by the bucket's own lifecycle rule
(docs/artifacts.md), because obstore cannot list it.

Reads are short ranges, each tried again by itself: a slow device keeps no answer of S3 open.
"""

import contextlib
import hashlib
import secrets
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import obstore
import obstore.store

from mailboat_controller.artifacts.artifact_store import (
    CHUNK_BYTES,
    COPY_BYTES,
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
from mailboat_controller.artifacts.directory import disk_free_bytes
from mailboat_controller.artifacts.s3_refusals import explained
from mailboat_controller.artifacts.store_refusals import (
    ObjectStoreRefused,
    ObjectStoreUnavailable,
)
from mailboat_schemas.documents.release import ARTIFACT_BYTES_MAX
from mailboat_schemas.errors import DigestMismatch, DiskFull, MailboatError

PART_BYTES = 8 << 20  # 1024 of them are the largest artifact; S3 takes 10,000 of 5 MiB or more
PARTS_AT_ONCE = 2  # of one upload, beside the one that is filled: 24 MiB of memory
RANGE_BYTES = 1 << 20  # of one read: a request costs S3 some 20 ms however short it is
COPY_BYTES_MAX = 5 << 30  # S3 copies no larger object in one call
_ARTIFACTS = "sha256/"
_QUARANTINE = "quarantine/"
_PROBE = "incoming/probe-"


class S3Store(ArtifactStore):
    """``<prefix>sha256/<sha256>``; ``<prefix>quarantine/`` for what was found damaged."""

    kind = "s3"

    def __init__(
        self,
        bucket: obstore.store.S3Store,
        place: str,
        scratch: Path,
        *,
        public: obstore.store.S3Store | None = None,
        bytes_max: int = ARTIFACT_BYTES_MAX,
        free_bytes: Callable[[Path], int] = disk_free_bytes,
    ) -> None:
        """
        Args:
            scratch: where copies for a while go, on this disk.
            public: the same bucket by the address that devices know.
        """
        self._bucket = bucket
        self._place = place
        self._scratch = scratch
        self._public = bucket if public is None else public
        self._bytes_max = bytes_max
        self._free_bytes = free_bytes
        scratch.mkdir(parents=True, exist_ok=True)

    @property
    def place(self) -> str:
        return self._place

    def check(self) -> None:
        """
        Raises:
            ObjectStoreRefused: no such bucket, wrong or too few rights, a wrong clock.
            ObjectStoreUnavailable: it cannot be reached now.
        """
        probe = _PROBE + secrets.token_hex(8)
        with explained(self._place):
            for _ in obstore.list(self._bucket, _QUARANTINE):
                break
            obstore.put(self._bucket, probe, b"probe")
            obstore.delete(self._bucket, probe)

    def remove_parts(self) -> int:
        copies = [path for path in self._scratch.iterdir() if path.is_file()]
        for path in copies:
            path.unlink(missing_ok=True)
        return len(copies)

    def length(self, digest: str) -> int | None:
        try:
            with explained(self._place):
                return int(obstore.head(self._bucket, _key(digest))["size"])
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
        length = self.length(digest)
        if length is None:
            raise missing_artifact(digest)
        end = length if end is None else min(end, length)
        range_bytes = max(chunk_bytes, RANGE_BYTES)
        while start < end:
            wanted = min(range_bytes, end - start)
            chunk = self._range(digest, start, wanted)
            start += wanted
            yield chunk

    def _range(self, digest: str, start: int, wanted: int) -> bytes:
        try:
            with explained(self._place):
                found = obstore.get_range(self._bucket, _key(digest), start=start, length=wanted)
        except FileNotFoundError:
            raise missing_artifact(digest) from None
        chunk = bytes(found)
        if len(chunk) != wanted:
            raise ObjectStoreUnavailable(
                f"The object store {self._place} gave {len(chunk)} of {wanted} bytes.",
                next_step="nothing; it is asked again.",
            )
        return chunk

    @contextlib.contextmanager
    def local_file(self, digest: str) -> Iterator[Path]:
        length = self.length(digest)
        if length is None:
            raise missing_artifact(digest)
        if self._free_bytes(self._scratch) < length + DISK_MARGIN_BYTES:
            raise disk_full(digest)
        path = self._scratch / f"{digest}.{secrets.token_hex(8)}"
        try:
            self._copy_to(path, digest)
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _copy_to(self, path: Path, digest: str) -> None:
        seen = hashlib.sha256()
        with path.open("xb") as file:
            for chunk in self.read(digest, chunk_bytes=COPY_BYTES):
                seen.update(chunk)
                file.write(chunk)
        if seen.hexdigest() != digest:
            raise DigestMismatch(f"The artifact in {self._place}", digest, seen.hexdigest())

    def begin(self, digest: str, length: int) -> "S3Upload":
        key = _key(digest)
        require_size(length, self._bytes_max)
        return S3Upload(self._bucket, self._place, key, digest, length)

    def entries(self, after: str = "") -> Iterator[Entry]:
        # S3 lists keys in order, and goes on after any text, be it a key or not.
        offset = _ARTIFACTS + after if after else None
        return self._list(_ARTIFACTS, offset)

    def _list(self, folder: str, offset: str | None = None) -> Iterator[Entry]:
        with explained(self._place):
            for page in obstore.list(self._bucket, folder, offset=offset):
                for found in page:
                    digest = str(found["path"]).removeprefix(folder)
                    if is_digest(digest):
                        yield Entry(digest, int(found["size"]))

    def delete(self, digest: str) -> bool:
        if not self.has(digest):
            return False
        with explained(self._place):
            obstore.delete(self._bucket, _key(digest))
        return True

    def quarantine(self, digest: str) -> None:
        length = self.length(digest)
        if length is None:
            return
        # That devices get no wrong bytes matters more than a copy to look at.
        without_copy = (ObjectStoreRefused, DiskFull, FileNotFoundError)
        with contextlib.suppress(*without_copy), explained(self._place):
            if length <= COPY_BYTES_MAX:
                obstore.copy(self._bucket, _key(digest), _QUARANTINE + digest)
        with explained(self._place):
            obstore.delete(self._bucket, _key(digest))

    def quarantined(self) -> tuple[Entry, ...]:
        return tuple(self._list(_QUARANTINE))

    def discard(self, digest: str) -> None:
        with explained(self._place), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._bucket, _QUARANTINE + require_digest(digest))

    def presigned(self, digest: str, life: timedelta) -> str | None:
        with explained(self._place):
            return str(obstore.sign(self._public, "GET", _key(digest), life))


class S3Upload:
    """An `Upload` as a multipart upload that nobody sees until it is complete."""

    def __init__(
        self, bucket: obstore.store.S3Store, place: str, key: str, digest: str, length: int
    ) -> None:
        self._bucket = bucket
        self._place = place
        self._key = key
        self._length = length
        self._measure = Measure(digest, length)
        # One no larger than a part is sent whole when it is closed.
        self._writer: Any = obstore.open_writer(
            bucket, key, buffer_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
        )

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
        with self._sending():
            self._writer.write(chunk)

    def commit(self) -> None:
        self._measure.require()
        with self._sending():
            self._writer.close()
            self._writer = None
            stored = int(obstore.head(self._bucket, self._key)["size"])
        if stored != self._length:
            raise ObjectStoreUnavailable(
                f"The object store {self._place} kept {stored} of {self._length} bytes.",
                next_step="upload it again; if it repeats, look at that store.",
            )

    @contextlib.contextmanager
    def _sending(self) -> Iterator[None]:
        try:
            with explained(self._place):
                yield
        except FileNotFoundError:
            raise ObjectStoreUnavailable(
                f"The object store {self._place} has forgotten this upload.",
                next_step="upload it again; if it repeats, look at the bucket's lifecycle rules.",
            ) from None

    def abort(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        # obstore ends a multipart upload when its block is left by an error, and only then.
        with contextlib.suppress(MailboatError, OSError, ValueError), explained(self._place):
            writer.__exit__(ValueError, ValueError("aborted"), None)


def _key(digest: str) -> str:
    return _ARTIFACTS + require_digest(digest)
