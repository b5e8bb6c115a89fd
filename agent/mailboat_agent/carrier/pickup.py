"""The running agent's side: take up what an import has left, as if the network had brought it."""

import logging
from datetime import datetime

from mailboat_agent.carrier.newest import with_newest_timestamp
from mailboat_agent.carrier.spool import ImportSpool
from mailboat_agent.reconcile import Reconciler
from mailboat_agent.trust.trust_store import TrustStore
from mailboat_schemas.errors import MailboatError

_log = logging.getLogger(__name__)


class Pickup:
    def __init__(self, spool: ImportSpool, trust: TrustStore, reconciler: Reconciler) -> None:
        self._spool = spool
        self._trust = trust
        self._reconciler = reconciler
        self._handed: tuple[tuple[int, int], bytes] | None = None  # its stamp, and the manifest

    def look(self, now: datetime) -> None:
        """Cheap when there is nothing. What a manifest waits for (the clock, room) the reconciler
        knows; it stays here until then, so that a restart does not lose it."""
        stamp = self._spool.stamp()
        if stamp is None:
            self._handed = None
            return
        if self._handed is None or self._handed[0] != stamp:
            self._hand(stamp, now)
        if self._handed is None or not self._reconciler.waits_for(self._handed[1]):
            self._spool.taken_up(stamp)

    def _hand(self, stamp: tuple[int, int], now: datetime) -> None:
        waiting = self._spool.waiting()
        self._handed = None
        if waiting is None:
            _log.warning("What was imported cannot be read back; import it again.")
            return
        _log.info("Taking up what was imported.")
        if waiting.timestamp is not None:
            try:
                fresh = with_newest_timestamp(self._trust, waiting.timestamp)
                self._reconciler.take_fresh(fresh, now)
            except MailboatError as error:
                _log.warning("The imported timestamp is of no use: %s", error)
        self._reconciler.take_manifest(waiting.manifest, now)
        self._reconciler.files_came()  # known or not: files may have come that were lacking
        self._handed = (stamp, waiting.manifest)
