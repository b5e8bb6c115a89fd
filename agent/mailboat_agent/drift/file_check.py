"""One stored file, read again from the disk at a bounded rate, and repaired from what is at hand.

Plain blocking work, for a thread beside the event loop.
"""

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from mailboat_agent.artifacts.release_store import OPEN_FLAGS, ReleaseStore
from mailboat_schemas.errors import ArtifactMissing, DigestMismatch, MailboatError

READ_BYTES = 256 << 10
WAIT_SECONDS_MIN = 0.01  # shorter waits cost more than they spare
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file that a release here needs. ``content`` is given where it is known without the disk."""

    digest: str
    length: int
    path: str  # in the release, for people
    model: str
    version: str
    release: str  # digest of its document
    content: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """``repaired_from``: ``manifest``, ``memory`` or ``staging``; empty if nothing was at hand."""

    file: StoredFile
    problem: str
    repaired_from: str


class FileCheck:
    """``memory`` gives a descriptor of verified bytes, by model and sha256, for us to close."""

    def __init__(
        self,
        store: ReleaseStore,
        *,
        memory: Callable[[str, str], int | None],
        bytes_per_second: int,
    ) -> None:
        self._store = store
        self._memory = memory
        self._bytes_per_second = bytes_per_second
        self._stop = threading.Event()

    def stop(self) -> None:
        """End at the next chunk. May be called from any thread."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def check(self, file: StoredFile) -> Damage | None:
        """None if it is whole, if it went away meanwhile, or if there was no time to say."""
        if self._is_whole(file.digest):
            return None
        try:
            # At full speed and under the store's rules: what is still wrong now is set aside.
            os.close(self._store.open_verified(file.digest))
        except ArtifactMissing:
            return None
        except DigestMismatch as error:
            return Damage(file=file, problem=error.what, repaired_from=self._repair(file))
        return None

    def _is_whole(self, digest: str) -> bool:
        """Whether it hashes to its name. What cannot be read does not; what is gone, or was not
        read to its end, may."""
        try:
            descriptor = os.open(self._store.path(digest), OPEN_FLAGS)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        try:
            # The page cache may still hold what the disk has lost.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            actual = self._hash_slowly(descriptor)
        except OSError:  # a bad sector, or no file at all
            return False
        finally:
            with suppress(OSError):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
        return self.stopped or actual == digest

    def _hash_slowly(self, descriptor: int) -> str:
        hashed = hashlib.sha256()
        began, bytes_read = time.monotonic(), 0
        while not self.stopped and (chunk := os.read(descriptor, READ_BYTES)):
            hashed.update(chunk)
            bytes_read += len(chunk)
            ahead = began + bytes_read / self._bytes_per_second - time.monotonic()
            if ahead > WAIT_SECONDS_MIN:
                self._stop.wait(ahead)
        return hashed.hexdigest()

    def _repair(self, file: StoredFile) -> str:
        """From where there was a whole copy on this device, if anywhere."""
        try:
            if file.content is not None:
                self._store.put(file.content)
                return "manifest"
            if self._repair_from_memory(file):
                return "memory"
            if self._store.staged_bytes(file.digest) == file.length:
                self._store.admit(file.digest, file.length)
                return "staging"
        except MailboatError as error:
            _log.warning("File %s could not be repaired here: %s", file.digest[:16], error)
        return ""

    def _repair_from_memory(self, file: StoredFile) -> bool:
        descriptor = self._memory(file.model, file.digest)
        if descriptor is None:
            return False
        try:
            self._store.adopt(descriptor, file.digest)
        finally:
            os.close(descriptor)
        return True
