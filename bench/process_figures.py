"""What a process costs, as Linux tells it."""

import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self


def resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no VmRSS")


def cpu_seconds(pid: int) -> float:
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


class ResidentMemory:
    """Of one process, looked at every second while the block runs: seconds and MiB."""

    def __init__(self, pid: int, every_seconds: float = 1.0) -> None:
        self._pid = pid
        self._every_seconds = every_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.seen: list[tuple[float, float]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()

    @property
    def max_mib(self) -> float:
        return max(mib for _, mib in self.seen)

    def grown_mib(self) -> float:
        """From the highest of the first third of the time to the highest of the last."""
        third = self.seen[-1][0] / 3
        early = [mib for seconds, mib in self.seen if seconds <= third]
        late = [mib for seconds, mib in self.seen if seconds >= 2 * third]
        return max(late) - max(early)

    def by_minute(self) -> list[float]:
        """The highest of each minute that was begun."""
        minutes: dict[int, float] = {}
        for seconds, mib in self.seen:
            minutes[int(seconds // 60)] = max(mib, minutes.get(int(seconds // 60), 0.0))
        return [minutes[minute] for minute in sorted(minutes)]

    def _look(self) -> None:
        began = time.monotonic()
        while True:
            try:
                self.seen.append((time.monotonic() - began, resident_mib(self._pid)))
            except (OSError, RuntimeError):
                return  # it ended
            if self._stopped.wait(self._every_seconds):
                return
