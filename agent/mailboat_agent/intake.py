"""What this device is sent: manifests and fresh timestamps, from wherever they come.

A refused one is told once and changes nothing; one that cannot be taken now, for the clock, the
disk or its age, is kept in memory and tried again.
"""

import hashlib
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.clock_watch import ClockWatch
from mailboat_agent.errand import Unforeseen
from mailboat_agent.ledger import Ledger
from mailboat_agent.trust.manifest import Counter, Manifest
from mailboat_agent.update.retry import Backoff
from mailboat_agent.update.time_floor import time_floor
from mailboat_schemas.errors import (
    DiskFull,
    MailboatError,
    MalformedPayload,
    SignatureInvalid,
    TrustStale,
)
from mailboat_schemas.events import EventKind

_log = logging.getLogger(__name__)


class Intake:
    def __init__(
        self,
        *,
        ledger: Ledger,
        manifest: Manifest,
        clock: ClockWatch,
        models: Callable[[], set[str]],
        bar: Callable[[], None],
        rng: random.Random,
    ) -> None:
        """``models`` are all that this device has to do with; ``bar`` lets nothing serve that is
        withdrawn by what is held now."""
        self._ledger = ledger
        self._manifest = manifest
        self._clock = clock
        self._models = models
        self._bar = bar
        # The newest that waits: for the clock, for room, or for a fresh timestamp.
        self._untaken: bytes | None = None
        self._untaken_fresh: bytes | None = None
        self._taking = Backoff(rng)

    def waits_for(self, payload: bytes) -> bool:
        """Whether this very manifest could not be taken yet."""
        return self._untaken == payload

    def take(self, payload: bytes, now: datetime) -> bool:
        """Take a bundle; True if it brought something new."""
        self._clock.look_at_the_clock(now)
        if self._clock.is_early:
            # python-tuf reads the wall clock, so it is not even asked.
            self._untaken = payload
            return False
        self._untaken = None
        state = self._ledger.state
        try:
            counter = self._manifest.take(
                payload,
                state.models,
                Counter(state.manifest_counter, state.director_keyid),
            )
            if counter is None:
                return False
            self.note(counter)
        except (DiskFull, DiskFailing) as error:
            self._untaken = payload
            _log.warning("A manifest waits for room on the disk: %s", error)
            self._bar()
            return False
        except MailboatError as error:
            if isinstance(error, TrustStale):
                self._untaken = payload
            self._refused(payload, error, now)
            # Trust metadata stands on its own: a withdrawal may have come with a refused wish.
            self._bar()
            return False
        except Exception as error:  # noqa: BLE001 - a stranger's bytes shall not end what serves
            self._met_a_bug(payload, error, now)
            return False
        return True

    def take_fresh(self, payload: bytes, now: datetime) -> bool:
        """Take a timestamp that was signed again; True if a bundle that waited for it was news."""
        self._clock.look_at_the_clock(now)
        if self._clock.is_early:
            self._untaken_fresh = payload
            return False
        self._untaken_fresh = None
        try:
            self._manifest.take_fresh(payload, self._models())
        except (SignatureInvalid, MalformedPayload) as error:
            self._refused(payload, error, now)
        except MailboatError as error:
            # Most likely it belongs to a bundle that has not arrived yet.
            _log.info("A fresh timestamp does not go with what is held: %s", error)
        except Exception as error:  # noqa: BLE001 - as above
            self._met_a_bug(payload, error, now)
        return self._untaken is not None and self.take(self._untaken, now)

    def take_what_waited(self, now: datetime, monotonic: float) -> bool:
        """What clock, disk or age did not let through; again at growing intervals."""
        brought = False
        if self._untaken is not None and self._taking.allows(monotonic):
            brought = self.take(self._untaken, now)
            if self._untaken is None:
                self._taking.forget()
            else:
                self._taking.failed(monotonic)
        if self._untaken_fresh is not None:
            brought |= self.take_fresh(self._untaken_fresh, now)
        return brought

    def forget_failures(self) -> None:
        """The clock is trusted again: what waited may be tried at once."""
        self._taking.forget()

    def note(self, counter: Counter | None) -> None:
        """Record that a manifest was accepted. Neither its counter nor the time goes back.

        Raises:
            DiskFull, DiskFailing
        """
        state = self._ledger.state
        if counter is None:
            return
        if state.director_keyid == counter.director_keyid:
            counter = replace(counter, value=max(counter.value, state.manifest_counter))
        self._ledger.save(
            replace(
                state,
                manifest_counter=counter.value,
                director_keyid=counter.director_keyid,
                time_floor=time_floor(self._manifest.issued(), state.time_floor),
            )
        )

    def _refused(self, payload: bytes, error: MailboatError, now: datetime) -> bool:
        """Tell it, once for each payload; whether it was told."""
        digest = hashlib.sha256(payload).hexdigest()[:16]
        kind = (
            EventKind.TRUST_STALE if isinstance(error, TrustStale) else EventKind.MANIFEST_REFUSED
        )
        told = self._ledger.tell_trouble(kind, f"{kind}:{digest}:{error.code}", error, now)
        if told:
            _log.warning("A manifest was not taken: %s", error)
        return told

    def _met_a_bug(self, payload: bytes, error: Exception, now: datetime) -> None:
        if self._refused(payload, Unforeseen(f"{type(error).__name__}: {error}"), now):
            _log.error("A manifest met a bug.", exc_info=error)
