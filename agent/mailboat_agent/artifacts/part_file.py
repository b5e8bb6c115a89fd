"""A download on disk: grows to its length and never one byte beyond, hashed as it comes."""

import errno
import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mailboat_agent.atomic_file import fsync_directory, write_all
from mailboat_schemas.errors import TransferTooLong

Progress = Callable[[int], None]  # told how many bytes are there
READ_BYTES = 1 << 20
# So often a part is made durable: a power cut costs what came since. More often would wear out
# flash and stall slow cards, less often costs metered bytes.
SYNC_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Hashed:
    """A hash, and the very file it is of: whoever replaced or touched it since is noticed."""

    sha256: str
    device: int
    inode: int
    size_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, descriptor: int, sha256: str) -> Self:
        found = os.fstat(descriptor)
        return cls(sha256, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class PartFile:
    """``size_bytes`` of ``length`` are there. Every method may raise OSError.

    Call `hash_what_is_there` before the first `append`; then the hash runs along with the bytes, so
    that a large file is not read a second time when its last byte has come.
    """

    def __init__(self, path: Path, length: int, on_progress: Progress | None = None) -> None:
        self.length = length
        self._path = path
        self._on_progress = on_progress
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        self._open = threading.Lock()  # so that nobody reads under the number of a closed file
        self._is_closed = False
        self.size_bytes = os.fstat(self._descriptor).st_size
        self._hash = hashlib.sha256()
        self._synced_bytes = self.size_bytes
        self._name_is_durable = False
        if self.size_bytes > length:
            self.start_over()

    def hash_what_is_there(self) -> None:
        """Of an earlier attempt. Reads all of it: not for the event loop. Ends on `close`."""
        hashed, offset = hashlib.sha256(), 0
        while chunk := self._read_at(offset):
            hashed.update(chunk)
            offset += len(chunk)
        self._hash = hashed

    def _read_at(self, offset: int) -> bytes:
        with self._open:
            if self._is_closed:
                raise OSError(errno.EBADF, "closed meanwhile")
            return os.pread(self._descriptor, READ_BYTES, offset)

    def start_over(self) -> None:
        os.ftruncate(self._descriptor, 0)
        self.size_bytes = self._synced_bytes = 0
        self._hash = hashlib.sha256()

    def append(self, chunk: bytes) -> None:
        """
        Raises:
            TransferTooLong: it would pass ``length``; everything is dropped, because what came
                before from such a source is as doubtful.
        """
        if self.size_bytes + len(chunk) > self.length:
            self.start_over()
            raise TransferTooLong(
                f"The server sends more than the {self.length} bytes expected.",
                next_step="nothing, it starts over; if it repeats, look at the caches in between.",
            )
        try:
            write_all(self._descriptor, chunk)
        finally:  # a full disk may have taken a part of it
            self.size_bytes = os.fstat(self._descriptor).st_size
        self._hash.update(chunk)
        if self._on_progress is not None:
            self._on_progress(self.size_bytes)

    @property
    def is_due_to_sync(self) -> bool:
        return self.size_bytes - self._synced_bytes >= SYNC_BYTES

    def sync_so_far(self) -> None:
        """Have what has come survive a power cut, its name too. Not for the event loop."""
        size_bytes = self.size_bytes
        os.fsync(self._descriptor)
        if not self._name_is_durable:
            fsync_directory(self._path.parent)
            self._name_is_durable = True
        self._synced_bytes = size_bytes

    def sync(self) -> Hashed:
        """Make it durable; what came through here, by hash."""
        os.fsync(self._descriptor)
        return Hashed.of(self._descriptor, self._hash.hexdigest())

    def close(self) -> None:
        with self._open:
            self._is_closed = True
            os.close(self._descriptor)
