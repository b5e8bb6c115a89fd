"""A bounded log on the device's disk: segments of JSON lines, the oldest dropped when it is full.

Lines are handed to the kernel one by one and never fsynced: a power cut may cost the last seconds,
flash is not worn, and nothing waits for a disk. A disk that refuses costs the lines and nothing
else; the newest are in memory anyway, for the event that tells of a failure.
"""

import contextlib
import json
import os
import threading
from collections import deque
from collections.abc import Iterator
from io import BufferedWriter
from pathlib import Path

from mailboat_schemas.device_orders import LogLine

SEGMENTS = 8  # so an eighth of the history goes at a time
SEGMENT_BYTES_MIN = 16 * 1024
TAIL_LINES_MAX = 400  # in memory
LINE_BYTES_MAX = 16 * 1024  # a longer one on the disk is damage
# After a disk has refused, so many lines pass before it is tried again.
RETRY_AFTER_LINES = 100


class LogRing:
    """`append` and `read` from any thread."""

    def __init__(self, directory: Path, bytes_max: int) -> None:
        """Goes on from what is there; ``bytes_max`` 0 keeps lines in memory alone."""
        self._directory = directory
        self._segment_bytes_max = max(SEGMENT_BYTES_MIN, bytes_max // SEGMENTS)
        self._on_disk = bytes_max > 0
        # Held again by the same thread: whatever is thrown away while we hold it may log as well.
        self._lock = threading.RLock()
        self._writing = False
        self._tail: deque[LogLine] = deque(maxlen=TAIL_LINES_MAX)
        self._file: BufferedWriter | None = None
        self._file_bytes = 0
        self._refused_lines = 0
        self.newest = self._find_newest()  # number of the newest line, 0 while there is none

    def append(self, *, at: int, level: str, logger: str, message: str, trace: str = "") -> None:
        """Keep one line. ``at`` is in milliseconds since 1970 UTC. Never raises for the disk."""
        with self._lock:
            self.newest += 1
            line = LogLine(
                number=self.newest,
                at=at,
                level=level,
                logger=logger,
                message=message,
                trace=trace,
            )
            self._tail.append(line)
            if self._on_disk and not self._writing:
                self._writing = True
                try:
                    self._write(line)
                finally:
                    self._writing = False

    def tail(self, count: int) -> list[LogLine]:
        """The newest lines, oldest first; they cost no disk."""
        with self._lock:
            return list(self._tail)[-count:] if count > 0 else []

    def lines(self, after: int = 0) -> Iterator[LogLine]:
        """Those that were kept when it was called, with a number above ``after``, in order.

        Read one by one: the whole log would take many times its size in memory. What cannot be
        read, or was dropped meanwhile, is passed over.
        """
        with self._lock:
            in_memory = list(self._tail)
        first = in_memory[0].number if in_memory else self.newest + 1
        if self._on_disk and after + 1 < first:
            for path in _from(self._segments(), after):
                for line in _lines_of(path):
                    if after < line.number < first:
                        after = line.number
                        yield line
        yield from (line for line in in_memory if line.number > after)

    def read(self, after: int = 0) -> list[LogLine]:
        """The same, all at once."""
        return list(self.lines(after))

    def close(self) -> None:
        with self._lock:
            self._close_file()

    # --- on the disk -----------------------------------------------------------------------------

    def _segments(self) -> list[Path]:
        """Oldest first. Names are the number of the first line, so they sort by age."""
        try:
            return sorted(self._directory.glob("[0-9]*.jsonl"))
        except OSError:
            return []

    def _write(self, line: LogLine) -> None:
        if self._refused_lines:
            self._refused_lines -= 1
            return
        content = json.dumps(line.model_dump(), separators=(",", ":")).encode() + b"\n"
        try:
            if self._file is None:
                self._resume_segment(len(content))
            if self._file is None or self._file_bytes + len(content) > self._segment_bytes_max:
                self._begin_segment(line.number)
            assert self._file is not None  # noqa: S101  begun above
            self._file.write(content)
            self._file.flush()
            self._file_bytes += len(content)
        except OSError:
            self._close_file()
            self._refused_lines = RETRY_AFTER_LINES

    def _resume_segment(self, more_bytes: int) -> None:
        """Go on with the newest: an agent that is started again and again must not push out, file
        by file, the lines that say why."""
        segments = self._segments()
        if not segments or segments[-1].is_symlink() or not segments[-1].is_file():
            return
        size = segments[-1].stat().st_size
        if size + more_bytes + 1 > self._segment_bytes_max:
            return
        self._file = segments[-1].open("ab")
        self._file_bytes = size
        if size and _last_byte(segments[-1]) != b"\n":  # torn by a power cut
            self._file_bytes += self._file.write(b"\n")

    def _begin_segment(self, number: int) -> None:
        self._close_file()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        segments = self._segments()
        for old in segments[: max(0, len(segments) - (SEGMENTS - 1))]:
            old.unlink(missing_ok=True)
        path = self._directory / f"{number:016d}.jsonl"
        self._file = path.open("ab")
        path.chmod(0o600)
        self._file_bytes = path.stat().st_size

    def _close_file(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _find_newest(self) -> int:
        """From the newest segment that holds a line; never below a name that was given."""
        for path in reversed(self._segments()) if self._on_disk else ():
            named = int(path.stem) if path.stem.isdecimal() else 0
            numbers = [line.number for line in _lines_of(path)]
            return max([named, *numbers])
        return 0


def _from(segments: list[Path], after: int) -> list[Path]:
    """Without those whose lines all have a number up to ``after``."""
    begins = [int(path.stem) if path.stem.isdecimal() else 0 for path in segments]
    kept = [place for place, begin in enumerate(begins) if begin <= after + 1]
    return segments[max(kept, default=0) :]


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


def _lines_of(path: Path) -> Iterator[LogLine]:
    try:
        with path.open("rb") as file:
            while content := file.readline(LINE_BYTES_MAX):
                with contextlib.suppress(ValueError):  # torn by a power cut, or damaged
                    yield LogLine.model_validate_json(content)
    except OSError:
        return
