"""What comes in for one release: how much, from where, how fast. For status and evidence."""

from dataclasses import dataclass, field

from mailboat_schemas.deltas import Source

WINDOW_SECONDS = 1.0  # of one measurement of the rate
NEWEST_WEIGHT = 0.3  # of the newest measurement in the average


@dataclass(slots=True)
class Arrivals:
    """Sizes in bytes of payload, times in seconds of a monotonic clock."""

    source_bytes: dict[Source, int] = field(default_factory=dict)
    resumed: int = 0  # transfers that went on where one had stopped
    retried: int = 0  # transfers of which nothing could be kept
    source: Source | None = None  # of what came last
    length: int = 0  # of the file or patch that is being fetched
    here: int = 0  # of that, what is on the disk
    rate_bytes_per_second: float = 0.0  # 0: not known (yet)
    _window_began: float | None = None
    _window_bytes: int = 0

    def begins(self, length: int, here: int = 0) -> None:
        """Another file, or patch, from now on."""
        self.length, self.here = length, here
        self._window_began, self.rate_bytes_per_second = None, 0.0

    def count(self, source: Source, size_bytes: int) -> None:
        """So much was received (or brought), whether it is of use or not."""
        self.source_bytes[source] = self.source_bytes.get(source, 0) + size_bytes

    def received(self, source: Source, size_bytes: int, now: float) -> None:
        """`count`, and the rate at which it comes."""
        self.count(source, size_bytes)
        self.source = source
        if self._window_began is None:
            self._window_began, self._window_bytes = now, 0
            return
        self._window_bytes += size_bytes
        passed = now - self._window_began
        if passed >= WINDOW_SECONDS:
            newest = self._window_bytes / passed
            weight = NEWEST_WEIGHT if self.rate_bytes_per_second else 1.0
            self.rate_bytes_per_second += weight * (newest - self.rate_bytes_per_second)
            self._window_began, self._window_bytes = now, 0

    @property
    def seconds_left(self) -> float | None:
        """Until this file is here, at the rate at which it comes; None if nobody knows."""
        if not self.rate_bytes_per_second:
            return None
        return (self.length - self.here) / self.rate_bytes_per_second
