"""How fast this device fetches: one cap over all downloads, and the least a server must give."""

import asyncio

# Below this a server is dripping: a release of 100 MB would take seven hours.
RATE_MIN_BYTES_PER_SECOND = 4096
BURST_SECONDS = 0.25  # what an idle link may bring at once, before the cap is felt


class Pace:
    """A token bucket, shared: whoever comes first is served first. None is no cap."""

    def __init__(self, bytes_per_second: int | None = None) -> None:
        self._bytes_per_second = bytes_per_second
        self._paid_until = 0.0  # until when what was taken uses up the cap; the loop's time

    async def take(self, size_bytes: int) -> float:
        """Wait until so many bytes more keep to the cap; the seconds waited.

        The caller stops reading meanwhile, so the server is held back by its own connection.
        """
        if self._bytes_per_second is None:
            return 0.0
        now = asyncio.get_running_loop().time()
        begins = max(now - BURST_SECONDS, self._paid_until)
        self._paid_until = begins + size_bytes / self._bytes_per_second
        wait_seconds = max(0.0, self._paid_until - now)
        await asyncio.sleep(wait_seconds)
        return wait_seconds


UNCAPPED = Pace()
