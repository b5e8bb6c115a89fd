"""Releases that are kept only while nothing else needs their room: the first to go.

They count as free room, like the ballast: a release that is merely kept is never in the way of one
that is to be installed, nor of a budget.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mailboat_agent.atomic_file import fsync_directory

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRelease:
    """``files`` are digests that nothing else on the device needs."""

    model: str
    version: str
    files: frozenset[str]


def _always(_model: str) -> bool:
    return True


class GivingWay:
    """Whoever decides what is installed says what may go: ``of`` gives it, the first to go first;
    ``may_go`` says of a model whether it may at this moment. Nothing, unless they are set."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self.of: Callable[[], Sequence[KeptRelease]] = tuple
        self.may_go: Callable[[str], bool] = _always

    def size_bytes(self) -> int:
        """Of all that may go, as far as it is there."""
        return sum(map(self._size, frozenset().union(*(each.files for each in self.of()))))

    def make_room(self, short_bytes: int) -> int:
        """Remove as many of them, one by one, as it takes; returns the bytes freed.

        Best effort: what cannot be unlinked now is in the way tomorrow as well. A crash in between
        leaves a release that is not whole, which nobody goes back to and which is garbage.
        """
        freed, kept = 0, list(self.of())
        for going in [each for each in kept if self.may_go(each.model)]:
            if freed >= short_bytes:
                break
            kept.remove(going)
            files = going.files.difference(*(each.files for each in kept))
            freed_now = sum(map(self._remove, files))
            if freed_now:
                _log.info(
                    "%s %s, kept to go back to, gives way to what needs its room: %d bytes freed.",
                    going.model,
                    going.version,
                    freed_now,
                )
            freed += freed_now
        if freed:
            with suppress(OSError):
                fsync_directory(self._store)
        return freed

    def _size(self, digest: str) -> int:
        try:
            return (self._store / digest).lstat().st_size
        except OSError:
            return 0

    def _remove(self, digest: str) -> int:
        size_bytes = self._size(digest)
        try:
            (self._store / digest).unlink()
        except OSError:
            return 0
        return size_bytes
