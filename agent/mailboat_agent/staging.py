"""When a download may begin: after jitter and back-off, and not again for wrong bytes."""

import random

from mailboat_agent.update.retry import Backoff
from mailboat_schemas import cohort
from mailboat_schemas.errors import MailboatError, Transient


class Staging:
    def __init__(self, device: str, *, start_jitter_seconds: float, rng: random.Random) -> None:
        self._device = device
        self._start_jitter_seconds = start_jitter_seconds
        self._backoff = Backoff(rng)
        self._start_at: tuple[str, float] = ("", 0.0)  # a candidate, and when its jitter is over
        self._refused = ""  # a candidate whose bytes came out wrong, until a new manifest

    def may_begin(self, digest: str, monotonic: float) -> bool:
        """``digest`` is of the release document. The jitter begins when it is first asked for."""
        if self._start_at[0] != digest:
            fraction = cohort.start_fraction(digest, self._device)
            self._start_at = (digest, monotonic + fraction * self._start_jitter_seconds)
        waited = monotonic >= self._start_at[1] and self._backoff.allows(monotonic)
        return waited and digest != self._refused

    def succeeded(self) -> None:
        self._backoff.forget()

    def failed(self, error: MailboatError, monotonic: float) -> None:
        """Later again, and not before the server asks for it."""
        hint = error.retry_after if isinstance(error, Transient) else None
        self._backoff.failed(monotonic, hint.total_seconds() if hint else 0.0)

    def refuse(self, digest: str) -> None:
        self._refused = digest

    def on_new_manifest(self) -> None:
        """What was refused or failed before may be in order now."""
        self._backoff.forget()
        self._refused = ""
