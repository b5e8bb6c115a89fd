"""Whether this device's clock can be right, and whether trust metadata holds by it."""

from datetime import UTC, datetime

from mailboat_agent.ledger import Ledger
from mailboat_agent.trust.manifest import Manifest
from mailboat_agent.update.time_floor import stands_before, stands_far_ahead, time_floor
from mailboat_schemas.errors import ClockUntrusted, TrustStale
from mailboat_schemas.events import EventKind


class ClockWatch:
    """Looked at anew whenever something depends on it; what is wrong is told once."""

    def __init__(self, ledger: Ledger, manifest: Manifest) -> None:
        self._ledger = ledger
        self._manifest = manifest
        self.trusted = True
        self.is_early = False  # before the floor: then no metadata can be checked at all
        self.trust_fresh = True

    def look_at_the_clock(self, now: datetime) -> None:
        floor = time_floor((), self._ledger.state.time_floor)
        self.is_early = stands_before(now, floor)
        # A device that comes back after years is not turned away: a manifest that holds by this
        # clock is taken, and with it trust is fresh and the floor is raised.
        expired = self._manifest.expires is not None and not self._manifest.is_fresh(now)
        self.trusted = not (self.is_early or (expired and stands_far_ahead(now, floor)))
        if not self.trusted:
            error = ClockUntrusted(
                f"The clock says {now:%Y-%m-%d %H:%M}, which is "
                f"{'before' if self.is_early else 'long after'} "
                f"{datetime.fromtimestamp(floor, UTC):%Y-%m-%d %H:%M}, the last that is known.",
                next_step="set the device's clock; it serves on and installs nothing until then.",
            )
            event_id = f"clock_untrusted:{self._ledger.state.session}"
            self._ledger.tell_trouble(EventKind.CLOCK_UNTRUSTED, event_id, error, now)

    def look_at_the_trust(self, now: datetime) -> None:
        """After the clock."""
        expires = self._manifest.expires
        self.trust_fresh = self._manifest.is_fresh(now)
        if expires is not None and self.trusted and not self.trust_fresh:
            error = TrustStale(
                f"Trust metadata expired at {expires:%Y-%m-%d %H:%M}.",
                next_step="look at whether the controller signs its timestamp daily.",
            )
            event_id = f"trust_stale:{int(expires.timestamp())}"
            self._ledger.tell_trouble(EventKind.TRUST_STALE, event_id, error, now)
