"""A file that the application lays down while its model must not be exchanged.

It postpones a switch to another release, and for so long at most: an application that has died
leaves the file behind. It postpones no withdrawal, and no way back from a release that fails.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

LOOK_SECONDS = 0.25
_log = logging.getLogger(__name__)


class Busy:
    def __init__(self, path: Path | None, seconds_max: float) -> None:
        """No ``path``: never busy."""
        self._path = path
        self._seconds_max = seconds_max

    @property
    def now(self) -> bool:
        try:
            return self._path is not None and self._path.exists()
        except OSError:  # a sign that cannot be read is none
            return False

    async def passes(self, model: str, still_serves: Callable[[], bool]) -> None:
        """Wait until the file is gone, the time is over, or nothing is left to be disturbed."""
        if not self.now:
            return
        began = time.monotonic()
        _log.info("%s is busy (%s): the next release waits", model, self._path)
        while self.now and still_serves():
            if time.monotonic() - began >= self._seconds_max:
                _log.warning(
                    "%s was busy for %g s; the next release serves now", model, self._seconds_max
                )
                return
            await asyncio.sleep(LOOK_SECONDS)


NEVER_BUSY = Busy(None, 0)
