"""When to ask for the manifest over HTTPS, although it should come by MQTT.

Three reasons: the broker has been silent; an acknowledgement names a newer manifest than the broker
has delivered, so it may be withholding it; and now and then in any case, because a broker that
withholds everything newer looks like one with no news.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable

from mailboat_agent.trust.manifest import Counter
from mailboat_schemas.errors import ArtifactMissing, MailboatError

JITTER = 0.25  # of each interval, so that a fleet does not ask in step
BEHIND_SECONDS = 30.0  # the manifest is given so long to arrive after an ack has named it
_log = logging.getLogger(__name__)

Fetch = Callable[[str | None], Awaitable[tuple[bytes, str | None] | None]]


class ManifestPoll:
    """``fetch`` asks with an ETag and gives (bundle, ETag), or None when nothing has changed."""

    def __init__(
        self,
        *,
        fetch: Fetch,
        take: Callable[[bytes], object],
        quiet_since: Callable[[], float | None],
        held: Callable[[], Counter],
        interval_seconds: float,
        check_seconds: float,
        monotonic: Callable[[], float],
        rng: random.Random,
    ) -> None:
        """
        Args:
            quiet_since: when the broker last said something that held; None without a connection.
            held: the counter of the newest desired state that was accepted, and whose it is.
            interval_seconds: of silence before it is asked.
            check_seconds: at the latest, whatever the broker says.
        """
        self._fetch = fetch
        self._take = take
        self._quiet_since = quiet_since
        self._held = held
        self._interval_seconds = interval_seconds
        self._check_seconds = check_seconds
        self._monotonic = monotonic
        self._rng = rng
        self._etag: str | None = None
        self._asked_at = monotonic()
        self._named = Counter(0, "")  # the highest that an ack has named, of one director key
        self._behind = asyncio.Event()

    def heard_of(self, counter: int) -> None:
        """A signed acknowledgement names this counter as the newest of our class."""
        keyid = self._held().director_keyid
        named = self._named.value if self._named.director_keyid == keyid else 0
        self._named = Counter(max(named, counter), keyid)
        if self._is_behind():
            self._behind.set()

    def _is_behind(self) -> bool:
        """A director with a new key counts anew: what its predecessor named says nothing."""
        held = self._held()
        return self._named.director_keyid == held.director_keyid and self._named.value > held.value

    async def run(self) -> None:
        """For ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(
                    self._behind.wait(),
                    self._spread(min(self._interval_seconds, self._check_seconds)),
                )
            if self._behind.is_set():
                await asyncio.sleep(self._spread(BEHIND_SECONDS))
                self._behind.clear()
            if self._is_due(self._monotonic()):
                await self._ask()

    def _is_due(self, now: float) -> bool:
        quiet_since = self._quiet_since()
        return (
            quiet_since is None
            or now - quiet_since >= self._interval_seconds
            or self._is_behind()
            or now - self._asked_at >= self._check_seconds
        )

    async def _ask(self) -> None:
        self._asked_at = self._monotonic()
        try:
            found = await self._fetch(self._etag)
        except ArtifactMissing:
            return
        except MailboatError as error:
            _log.info("The manifest could not be asked for: %s", error)
            return
        if found is None:
            return
        payload, self._etag = found
        if self._is_behind():
            _log.warning("The manifest came by HTTPS; the broker had not delivered it.")
        self._take(payload)

    def _spread(self, seconds: float) -> float:
        return seconds * (1 + JITTER * (self._rng.random() - 0.5))
