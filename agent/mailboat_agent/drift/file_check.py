"""One stored file, read again from the disk at a bounded rate, and repaired from what is at hand.

Plain blocking work, for a thread beside the event loop.
"""

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from mailboat_agent.artifacts.release_store import OPEN_FLAGS, ReleaseStore
from mailboat_agent.atomic_file import DiskFailing
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
    """``repaired_from``: ``manifest``, ``memory`` or ``staging``; empty if nothing was at hand.
    ``in_place``: it could not even be moved aside, as on a disk gone read-only."""

    file: StoredFile
    problem: str
    repaired_from: str
    in_place: bool = False


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
        with ExitStack() as until_then:
            # First: between what is set aside and what takes its place are two renames.
            copy = self._copy_of_memory(file, until_then)
            try:
                # At full speed and under the store's rules: what is still wrong now is set aside.
                os.close(self._store.open_verified(file.digest))
            except (ArtifactMissing, DiskFailing):  # gone, or nothing left to look at it with
                return None
            except DigestMismatch as error:
                if self._store.has(file.digest):  # it could not be moved, or somebody was faster
                    in_place = not self._is_whole(file.digest)
                    return Damage(
                        file=file, problem=error.what, repaired_from="", in_place=in_place
                    )
                repaired_from = self._repair(file, copy)
                return Damage(file=file, problem=error.what, repaired_from=repaired_from)
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

    def _repair(self, file: StoredFile, copy: Path | None) -> str:
        """From where there was a whole copy on this device, if anywhere."""
        try:
            if file.content is not None:
                self._store.put(file.content)
                return "manifest"
            if copy is not None:
                self._store.adopt(copy, file.digest)
                return "memory"
            if self._store.staged_bytes(file.digest) == file.length:
                self._store.admit(file.digest, file.length)
                return "staging"
        except MailboatError as error:
            _log.warning("File %s could not be repaired here: %s", file.digest[:16], error)
        return ""

    def _copy_of_memory(self, file: StoredFile, until_then: ExitStack) -> Path | None:
        descriptor = self._memory(file.model, file.digest)
        if descriptor is None:
            return None
        until_then.callback(os.close, descriptor)
        try:
            return until_then.enter_context(self._store.copied(descriptor, file.digest))
        except MailboatError as error:
            _log.warning("File %s could not be copied: %s", file.digest[:16], error)
            return None
