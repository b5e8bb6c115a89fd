"""When a download may begin: after jitter and back-off, and not soon again for wrong bytes."""

import random

from mailboat_agent.artifacts.metered import MeteredWait
from mailboat_agent.artifacts.refusals import ServerBusy
from mailboat_agent.update.retry import Backoff
from mailboat_schemas import cohort
from mailboat_schemas.errors import MailboatError, ReleaseRejected, Transient

# A server with other bytes than were signed is asked again all the same: nobody tells a device
# that a cache in between was repaired.
REJECTED_AGAIN_SECONDS = 3600.0
WAIT_JITTER = 0.25  # of a wait, added: a fleet that was sent away together comes back spread out


class Staging:
    """``trouble`` says why the last attempt came to nothing."""

    def __init__(self, device: str, *, start_jitter_seconds: float, rng: random.Random) -> None:
        self._device = device
        self._start_jitter_seconds = start_jitter_seconds
        self._rng = rng
        self._backoff = Backoff(rng)
        self._server_waits_until = 0.0
        self._meter_waits_until = 0.0
        self._start_at: tuple[str, float] = ("", 0.0)  # a candidate, and when its jitter is over
        self.trouble = ""
        self.waits_for_budget = False  # of a metered link

    def may_begin(self, digest: str, monotonic: float, *, is_emergency: bool = False) -> bool:
        """``digest`` is of the release document. The jitter begins when it is first asked for; an
        emergency has none, and waits for a server that asked for it all the same."""
        if is_emergency:
            self._start_at = (digest, 0.0)
        elif self._start_at[0] != digest:
            fraction = cohort.start_fraction(digest, self._device)
            self._start_at = (digest, monotonic + fraction * self._start_jitter_seconds)
        earliest = max(self._start_at[1], self._server_waits_until, self._meter_waits_until)
        return monotonic >= earliest and self._backoff.allows(monotonic)

    def files_came(self) -> None:
        """Somebody carried them here: nobody is asked for them, so nobody is waited for."""
        self._server_waits_until = 0.0
        self._start_at = (self._start_at[0], 0.0)

    def failed(self, error: MailboatError, monotonic: float) -> None:
        """Later again, and not before the server asks for it. Whoever only asks to wait has not
        failed: that does not count as an attempt."""
        self.trouble = error.what
        self.waits_for_budget = isinstance(error, MeteredWait)
        wait_seconds = REJECTED_AGAIN_SECONDS if isinstance(error, ReleaseRejected) else 0.0
        if isinstance(error, Transient) and error.retry_after is not None:
            wait_seconds = error.retry_after.total_seconds()
        match error:
            case ServerBusy():
                wait_seconds *= 1 + WAIT_JITTER * self._rng.random()
                self._server_waits_until = monotonic + wait_seconds
            case MeteredWait():
                self._meter_waits_until = monotonic + wait_seconds
            case _:
                self._backoff.failed(monotonic, wait_seconds)

    def forget(self) -> None:
        """It went well, or a new manifest came: what failed before may be in order now, and what
        was too much for the link may come as a patch. A server that asked to wait is still waited
        for."""
        self._backoff.forget()
        self.waits_for_budget = False
        self._meter_waits_until = 0.0
        self.trouble = ""
