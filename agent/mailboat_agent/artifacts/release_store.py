"""Files by their sha256: everything a device can serve, each byte of it verified.

``store/<sha256>`` is immutable (0444) and named after its content; ``staging/<sha256>.part`` is a
download that may go on after a restart; ``damaged/`` keeps the last files that stopped matching
their name, as evidence. A name appears in the store only after its content was made durable and
hashed through the very descriptor that was synced.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from pathlib import Path

from mailboat_agent import ballast
from mailboat_agent.artifacts.directory_files import entries, sizes, unlink_others
from mailboat_agent.artifacts.file_copy import copy_durably
from mailboat_agent.artifacts.giving_way import GivingWay
from mailboat_agent.artifacts.part_file import Hashed
from mailboat_agent.artifacts.set_aside import SetAside
from mailboat_agent.artifacts.wrapped_keys import WrappedKeys
from mailboat_agent.atomic_file import (
    DiskFailing,
    disk_error,
    disk_errors,
    fsync_directory,
    is_shortage,
    make_directory,
    write_new_durably,
)
from mailboat_schemas.errors import (
    ArtifactMissing,
    DigestMismatch,
    DownloadInterrupted,
    PayloadTooLarge,
)
from mailboat_schemas.names import DIGEST_PATTERN

READ_BYTES = 1 << 20
# Without O_NONBLOCK a named pipe in the place of a file would be waited for, for ever.
OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PART_SUFFIX = ".part"
_COPY_SUFFIX = ".copy"
_DIGEST = re.compile(DIGEST_PATTERN)


class ReleaseStore:
    def __init__(self, data_dir: Path) -> None:
        """Makes the directories and the ballast; removes nothing.

        Raises:
            DiskFailing: the data directory cannot be written at all.
        """
        self._data_dir = data_dir
        self._store = data_dir / "store"
        self._staging = data_dir / "staging"
        self.set_aside = SetAside(data_dir / "damaged")
        self.gives_way = GivingWay(self._store)
        self.content_keys = WrappedKeys(data_dir)  # of what is encrypted in the store
        for directory in (self._store, self._staging, self.set_aside.directory):
            # A full disk may refuse a directory that only a first install needs: admit() says so.
            with suppress(OSError):
                make_directory(directory)
        if not data_dir.is_dir():
            raise DiskFailing(
                f"The data directory {data_dir} cannot be made.",
                next_step="make it writable for the user the agent runs as.",
            )
        self.restore_ballast()

    @property
    def data_dir(self) -> Path:
        return self._data_dir

    # --- what is there -------------------------------------------------------------------------

    def has(self, digest: str) -> bool:
        """Whether a file of that name is there; `open_verified` says whether it is whole."""
        return self.path(digest).is_file()

    def digests(self) -> frozenset[str]:
        return frozenset(path.name for path in entries(self._store) if _is_digest(path.name))

    def path(self, digest: str) -> Path:
        if not _is_digest(digest):
            raise ValueError(f"not a sha256: {digest[:80]!r}")
        return self._store / digest

    def open_verified(self, digest: str) -> int:
        """A descriptor whose bytes have this digest, at offset 0. The caller closes it.

        Raises:
            ArtifactMissing: not in the store.
            DigestMismatch: damaged; it is set aside and is missing from now on.
            DiskFailing: no descriptor or memory to read it with, which says nothing about it.
        """
        found = None
        try:
            descriptor = os.open(self.path(digest), OPEN_FLAGS)
            try:
                found = os.fstat(descriptor)
                actual = _hash_regular_file(descriptor)
                if actual == digest:
                    return descriptor
            except OSError:
                os.close(descriptor)
                raise
        except FileNotFoundError as error:
            raise _missing(digest) from error
        except OSError as error:
            if is_shortage(error):
                raise disk_error(error, "reading a stored file") from error
            # A bad sector, or something that is no file.
            raise self._mismatch(digest, f"unreadable ({error.strerror})", found) from error
        os.close(descriptor)
        raise self._mismatch(digest, actual, found)

    def read_verified(self, digest: str, bytes_max: int) -> bytes:
        """The content, read and hashed in one go.

        Raises:
            PayloadTooLarge: more than ``bytes_max``.
            ArtifactMissing, DigestMismatch: as `open_verified`.
        """
        descriptor = self.open_verified(digest)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            content = file.read(bytes_max + 1)
        if len(content) > bytes_max:
            raise PayloadTooLarge("stored document", len(content), bytes_max)
        # The file was hashed and then read: what is handed out is hashed itself.
        actual = hashlib.sha256(content).hexdigest()
        if actual != digest:
            raise self._mismatch(digest, actual, found)
        return content

    def _mismatch(self, digest: str, actual: str, found: os.stat_result | None) -> DigestMismatch:
        """Sets the damaged file aside, so that nobody tries it again, and says so. ``found`` is
        the one that was read: what has taken its place meanwhile may be whole."""
        with suppress(OSError):  # on a file system gone read-only it stays, and is refused again
            self.set_aside.take(self.path(digest), found)
            fsync_directory(self._store)
        return DigestMismatch(f"Stored file {digest[:16]}", digest, actual)

    # --- how it gets there ---------------------------------------------------------------------

    def staging_path(self, digest: str) -> Path:
        return self._staging / (self.path(digest).name + _PART_SUFFIX)

    def staged_bytes(self, digest: str) -> int:
        try:
            return self.staging_path(digest).stat().st_size
        except OSError:
            return 0

    def admit(self, digest: str, length: int, hashed: Hashed | None = None) -> None:
        """Move a finished staging file into the store. May be repeated after a crash.

        Args:
            hashed: what the download hashed as it came and made durable. It counts only for that
                very file, untouched since; any other is hashed here.

        Raises:
            ArtifactMissing: neither staged nor stored.
            DownloadInterrupted: shorter than ``length`` bytes; the part stays, to be resumed.
            DigestMismatch: other bytes; the part is deleted, to be downloaded from the start.
            DiskFull, DiskFailing: nothing has changed in the store.
        """
        part = self.staging_path(digest)
        try:
            descriptor = os.open(part, OPEN_FLAGS)
        except FileNotFoundError as error:
            if not self.has(digest):
                raise _missing(digest) from error
            self._make_names_durable()  # a crash may have come right after the rename
            return
        except OSError as error:
            raise disk_error(error, "opening a staged file") from error
        try:
            with disk_errors("making a staged file durable"):
                self._admit_descriptor(descriptor, digest, length, hashed)
                self._place(part, digest)
        finally:
            os.close(descriptor)
        self._make_names_durable()

    def _admit_descriptor(
        self, descriptor: int, digest: str, length: int, hashed: Hashed | None
    ) -> None:
        """Content durable, then hashed through the same descriptor, then read-only."""
        size_bytes = os.fstat(descriptor).st_size
        if size_bytes < length:
            raise DownloadInterrupted(
                f"Only {size_bytes} of {length} bytes of {digest[:16]} are here.",
                next_step="nothing; the download goes on where it stopped.",
            )
        try:
            os.fsync(descriptor)
            if size_bytes != length:
                actual = "too long"
            elif hashed is not None and hashed == Hashed.of(descriptor, hashed.sha256):
                actual = hashed.sha256
            else:
                actual = _hash_regular_file(descriptor)
        except OSError:
            # After a failed fsync nobody knows which bytes reached the disk.
            with suppress(OSError):
                self.staging_path(digest).unlink()
            raise
        if actual != digest:
            self.staging_path(digest).unlink()
            raise DigestMismatch(f"File {digest[:16]}", digest, actual)
        os.fchmod(descriptor, 0o444)

    def _place(self, file: Path, digest: str) -> None:
        path = self.path(digest)
        if path.is_dir():  # a rename replaces anything else
            self.set_aside.take(path)
        file.replace(path)

    def _make_names_durable(self) -> None:
        with disk_errors("making a new name durable"):
            fsync_directory(self._store)
            fsync_directory(self._staging)

    def put(self, content: bytes) -> str:
        """Store something small, such as a release document; returns its digest.

        Raises:
            DiskFull, DiskFailing: nothing has changed in the store.
        """
        digest = hashlib.sha256(content).hexdigest()
        if self.has(digest):
            with suppress(DigestMismatch, ArtifactMissing):
                os.close(self.open_verified(digest))
                return digest
        part = self.staging_path(digest)
        with disk_errors("storing a document"):
            try:
                write_new_durably(part, content, mode=0o600)
            except OSError:
                with suppress(OSError):
                    part.unlink()
                raise
        self.admit(digest, len(content))
        return digest

    @contextmanager
    def copied(self, source: int, digest: str) -> Iterator[Path]:
        """A durable copy of what is behind a descriptor, for `adopt`; else it goes at the end.
        A download of the same file goes on.

        Raises:
            DigestMismatch: other bytes.
            DiskFull, DiskFailing
        """
        copy = self._staging / (self.path(digest).name + _COPY_SUFFIX)
        try:
            with disk_errors("storing a copy"):
                actual = copy_durably(source, copy)
            if actual != digest:
                raise DigestMismatch(f"A copy of file {digest[:16]}", digest, actual)
            yield copy
        finally:
            with suppress(OSError):
                copy.unlink()

    def adopt(self, copy: Path, digest: str) -> None:
        """Make a copy of this digest the stored file: a rename.

        Raises:
            DiskFull, DiskFailing
        """
        with disk_errors("storing a copy"):
            self._place(copy, digest)
        self._make_names_durable()

    # --- room ----------------------------------------------------------------------------------

    def free_bytes(self) -> int:
        """What could be written, the ballast given up and the evidence of damage; 0 when the disk
        does not answer."""
        try:
            status = os.statvfs(self._data_dir)
        except OSError:
            return 0
        spare = ballast.ballast_bytes(self._data_dir) + self.set_aside.evidence_bytes()
        return status.f_bavail * status.f_frsize + spare

    def make_room(self, size_bytes: int) -> None:
        """So much is to be written: what is kept of damaged files gives way, if it has to."""
        if size_bytes > self.free_bytes() - self.set_aside.evidence_bytes():
            self.set_aside.give_up_evidence()

    def stored_bytes(self) -> int:
        return sizes(self._store)

    def staged_bytes_of_all(self) -> int:
        """With what was imported and waits in its spool (`carrier.spool`): it is moved here."""
        return sizes(self._staging) + sizes(self._data_dir / "import")

    def give_up_ballast(self) -> None:
        ballast.give_up_ballast(self._data_dir)

    def restore_ballast(self) -> None:
        ballast.restore_ballast(self._data_dir)

    def collect_garbage(self, keep: AbstractSet[str]) -> int:
        """Unlink what is not in ``keep``, in the store and in staging; returns the bytes freed.
        Content keys that it does not name go as well.

        Call it last, when the state no longer names what goes. A file that somebody has open stays
        readable for them.
        """
        self.content_keys.remove_others(keep)
        freed = unlink_others(self._store, lambda name: name in keep)
        # What repairs a file at this moment stays as well; a copy of a file that is there is left
        # from a crash.
        parts = {digest + _PART_SUFFIX for digest in keep}
        parts |= {d + _COPY_SUFFIX for d in keep if _is_digest(d) and not self.has(d)}
        return freed + unlink_others(self._staging, parts.__contains__)


def _is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def _missing(digest: str) -> ArtifactMissing:
    return ArtifactMissing(
        f"File {digest[:16]} is not in the store.",
        next_step="nothing; it is downloaded when a release needs it.",
    )


def _hash_regular_file(descriptor: int) -> str:
    """The sha256 of everything behind a descriptor, which stands at offset 0 afterwards."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return "not a file"
    os.lseek(descriptor, 0, os.SEEK_SET)
    digest = hashlib.sha256()
    while chunk := os.read(descriptor, READ_BYTES):
        digest.update(chunk)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return digest.hexdigest()
