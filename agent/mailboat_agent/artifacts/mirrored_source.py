"""One file from whoever has it: the site's caches in order, an object store, and the controller.

Caches and store are untrusted. What they bring is hashed as it comes; what they cost is bounded by
`Mirrors`; what they leave undone the next one goes on with. The controller has the last word: only
what it says of a file is said to the caller.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from ssl import SSLContext
from typing import TYPE_CHECKING, Protocol

from mailboat_agent.artifacts.arrivals import Arrivals
from mailboat_agent.artifacts.mirrors import FILES_MAX, Mirrors
from mailboat_agent.artifacts.part_file import Hashed, PartFile, Progress
from mailboat_agent.artifacts.refusals import ServerBusy
from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.background import in_background
from mailboat_schemas.errors import (
    ArtifactMissing,
    DiskFull,
    DownloadInterrupted,
    MailboatError,
    ServerUnavailable,
    TransferTooLong,
    TransferTooSlow,
)

if TYPE_CHECKING:
    from mailboat_agent.artifacts.download import HttpsSource

OBJECT_STORE = "the object store"  # whichever the controller names
# A transfer that was cut after so much is gone on with at once, as often as that happens: that is
# a bad link, not a failure. Less is no progress: a server could go on like that for ever.
PROGRESS_BYTES_MIN = 4096
RESUME_SECONDS_MAX = 1.0  # before it goes on, so that a fleet does not do so in step
_DISK = (DiskFull, DiskFailing)
_NO_BAD_LINK = (TransferTooSlow, TransferTooLong, ServerBusy)


class ArtifactSource(Protocol):
    """Two real ones: `HttpsSource`, one server; `MirroredSource`, all that a device may ask."""

    async def fetch_artifact(
        self,
        digest: str,
        length: int,
        target: Path,
        on_progress: Progress | None = None,
        arrivals: Arrivals | None = None,
    ) -> Hashed: ...


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to a file: a server, and whether it may send us on to an object store."""

    name: str
    server: "HttpsSource"
    store: Callable[[], SSLContext] | None = None
    is_last: bool = False


class MirroredSource:
    def __init__(
        self,
        *,
        controller: "Callable[[], HttpsSource]",
        caches: "Callable[[], Sequence[HttpsSource]]",
        cache_names: Sequence[str],
        object_store: Callable[[], SSLContext] | None,
        rng: random.Random,
    ) -> None:
        """
        Args:
            controller, caches: the connections as they are now; a renewal changes them.
            cache_names: of the caches, in the same order, for as long as this lives. One without
                a connection is passed over.
            object_store: what to trust one by; None asks the controller for none.
        """
        self._controller = controller
        self._caches = caches
        self._cache_names = tuple(cache_names)
        self._object_store = object_store
        self._rng = rng
        names = self._cache_names
        self._mirrors = Mirrors((*names, OBJECT_STORE) if object_store is not None else names)
        # Each mirror is found out once; a part of before the restart; the controller, in the end.
        self._rounds_max = len(names) + 3
        # Whose bytes are in which unfinished file, as far as this process knows.
        self._had_a_hand: dict[str, set[str]] = {}

    async def fetch_artifact(
        self,
        digest: str,
        length: int,
        target: Path,
        on_progress: Progress | None = None,
        arrivals: Arrivals | None = None,
    ) -> Hashed:
        """As `HttpsSource.fetch_artifact`. Wrong bytes are only returned if the controller alone
        has sent them.

        Raises:
            ServerBusy: whoever is asked wants us to wait.
            DownloadInterrupted, ServerUnavailable, ArtifactMissing, NotPermitted
            DiskFull, DiskFailing
        """
        from mailboat_agent.artifacts.download import open_part

        arrivals = arrivals or Arrivals()
        async with open_part(target, length, on_progress) as part:
            arrivals.begins(length, part.size_bytes)
            for _ in range(self._rounds_max):
                is_pure = part.size_bytes == 0
                way = await self._bring(digest, part, arrivals)
                hashed = await in_background(part.sync, name="sync")
                helpers = self._had_a_hand.pop(digest, set())
                if hashed.sha256 == digest:
                    return hashed
                if way is not None and way.is_last and is_pure and not helpers:
                    return hashed
                self._blame(digest, helpers)
                arrivals.retried += 1
                part.start_over()
            return hashed

    async def _bring(self, digest: str, part: PartFile, arrivals: Arrivals) -> _Way | None:
        """Bring a part to its length; who brought its end, or None if it was here."""
        if part.size_bytes >= part.length:
            return None
        for way in self._ways(digest):
            try:
                await self._persist(way, digest, part, arrivals)
            except _DISK:
                raise
            except MailboatError as error:
                if way.is_last:
                    raise
                self._strike(way, digest, error)
            else:
                self._mirrors.did_well(way.name)
                return way
        raise AssertionError("the last one either brings it or says why not")

    def _ways(self, digest: str) -> list[_Way]:
        now = asyncio.get_running_loop().time()
        controller = self._controller()
        caches = dict(zip(self._cache_names, self._caches(), strict=False))
        found = []
        for name in self._mirrors.to_ask(digest, now):
            if name == OBJECT_STORE:
                found.append(_Way(name, controller, self._object_store))
            elif name in caches:
                found.append(_Way(name, caches[name]))
        return [*found, _Way(controller.name, controller, is_last=True)]

    async def _persist(self, way: _Way, digest: str, part: PartFile, arrivals: Arrivals) -> None:
        """Ask one server for as long as it brings something each time, and not beyond the time
        that a whole transfer may take."""
        from mailboat_agent.artifacts.https_connection import total_deadline

        seconds = way.server.seconds_max(part.length)
        async with total_deadline(seconds, way.server.name) as whole:
            await self._go_on(way, digest, part, arrivals, whole)

    async def _go_on(
        self, way: _Way, digest: str, part: PartFile, arrivals: Arrivals, whole: asyncio.Timeout
    ) -> None:
        while True:
            before = part.size_bytes
            try:
                await way.server.transfer(
                    digest,
                    part,
                    arrivals,
                    store=way.store,
                    keeps_part=not way.is_last,
                    within=(whole,),
                )
            except (DownloadInterrupted, ServerUnavailable) as error:
                brought = part.size_bytes - before
                if brought < PROGRESS_BYTES_MIN or isinstance(error, _NO_BAD_LINK):
                    raise
            else:
                return
            finally:
                if not way.is_last and part.size_bytes != before:
                    self._remember(digest, way.name)
            await asyncio.sleep(self._rng.random() * RESUME_SECONDS_MAX)

    def _remember(self, digest: str, name: str) -> None:
        self._had_a_hand.setdefault(digest, set()).add(name)
        while len(self._had_a_hand) > FILES_MAX:
            del self._had_a_hand[next(iter(self._had_a_hand))]

    def _strike(self, way: _Way, digest: str, error: MailboatError) -> None:
        """
        Raises:
            ServerBusy: it is worth waiting for.
        """
        now = asyncio.get_running_loop().time()
        match error:
            case ServerBusy():
                asked = error.retry_after or timedelta()
                seconds = self._mirrors.waits(way.name, asked.total_seconds(), now)
                if seconds:
                    raise error
            case ArtifactMissing():
                self._mirrors.lacks(way.name, digest, now)
            case TransferTooLong():  # and with it everything that others had brought is lost
                self._mirrors.lied(way.name, digest, now)
            case _:
                self._mirrors.failed(way.name, now)

    def _blame(self, digest: str, helpers: set[str]) -> None:
        """Of bytes that are wrong: whoever had a hand in them, or may have had one before this
        process began. One of them is, or was, a liar, and the others have lost an hour."""
        now = asyncio.get_running_loop().time()
        for name in helpers or {*self._cache_names, OBJECT_STORE}:
            self._mirrors.lied(name, digest, now)
