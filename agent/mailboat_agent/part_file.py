"""A download on disk: it grows to its length and never one byte beyond."""

import os
from collections.abc import Callable
from pathlib import Path

from mailboat_agent.atomic_file import write_all
from mailboat_schemas.errors import DownloadInterrupted

Progress = Callable[[int], None]  # told how many bytes are there


class PartFile:
    """``size_bytes`` of ``length`` are there. Every method may raise OSError."""

    def __init__(self, path: Path, length: int, on_progress: Progress | None = None) -> None:
        self.length = length
        self._on_progress = on_progress
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        self.size_bytes = os.fstat(self._descriptor).st_size
        if self.size_bytes > length:
            self.start_over()

    def start_over(self) -> None:
        os.ftruncate(self._descriptor, 0)
        self.size_bytes = 0

    def append(self, chunk: bytes) -> None:
        """
        Raises:
            DownloadInterrupted: it would pass ``length``; everything is dropped, because what came
                before from such a source is as doubtful.
        """
        if self.size_bytes + len(chunk) > self.length:
            self.start_over()
            raise DownloadInterrupted(
                f"The server sends more than the {self.length} bytes expected.",
                next_step="nothing, it starts over; if it repeats, look at the caches in between.",
            )
        try:
            write_all(self._descriptor, chunk)
        finally:  # a full disk may have taken a part of it
            self.size_bytes = os.fstat(self._descriptor).st_size
        if self._on_progress is not None:
            self._on_progress(self.size_bytes)

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)
