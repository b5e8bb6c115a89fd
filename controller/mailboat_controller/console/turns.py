"""One does the work, few wait for it, and whoever comes beyond them is told to come back.

Whoever waits holds one of the threads that the whole API answers with (40 of them): fifty people
who open the page of a halted rollout must not keep devices from being answered.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mailboat_schemas.errors import ServerUnavailable

WAITING_MAX = 8  # of each kind of work, the one who does it among them


class TooManyWait(ServerUnavailable):
    code = "E-CONSOLE-BUSY"


class Turns:
    """A lock with few places before it."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(WAITING_MAX)

    @property
    def taken(self) -> bool:
        return self._lock.locked()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """
        Raises:
            TooManyWait: all places are taken.
        """
        if not self._places.acquire(blocking=False):
            raise TooManyWait(
                f"{self._what} just now, and {WAITING_MAX} pages wait for it already.",
                next_step="reload the page in a few seconds; the command line shows the same.",
            )
        try:
            with self._lock:
                yield
        finally:
            self._places.release()
