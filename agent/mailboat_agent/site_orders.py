"""The order of this device's own site: verified, kept as it was signed, in force after a restart.

It counts as long as the newest verified Policy for the site names the key that signed it. Orders
follow one another by their counters, whichever of those keys signed them; what a key that is named
no more has counted keeps nobody from ordering. The counters stand in the same file as the order,
which is replaced whole: nothing that was taken back comes again from a broker's memory or a stick.
A device whose file is lost says so, and goes by what it is told next, each item until its own end.
"""

import base64
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from mailboat_agent.atomic_file import DiskFailing, replace_durably
from mailboat_agent.device_rules import policy_of
from mailboat_agent.facts import Device
from mailboat_agent.kept_site_order import (
    FILE_NAME,
    KEPT,
    Kept,
    counted_as,
    opened_for,
    read_kept,
    refuse_old,
)
from mailboat_agent.ledger import Ledger
from mailboat_agent.site_order_handover import Handover
from mailboat_agent.trust.manifest import Manifest
from mailboat_agent.update.events import milliseconds
from mailboat_agent.update.time_floor import stands_before, time_floor
from mailboat_schemas.documents.site_key import SiteKey
from mailboat_schemas.errors import DiskFull, MailboatError
from mailboat_schemas.events import Event, EventKind
from mailboat_schemas.names import DIRECT_SITE
from mailboat_schemas.site_orders import OpenedOrder, SiteOrderKey, SiteOrderOld

KEYS_REMEMBERED = 16  # whose counters are kept; a Policy names four
ORDERED, LIFTED = "ordered", "lifted"
_log = logging.getLogger(__name__)


class SiteOrders:
    """``device.site_order`` is what stands; `look` keeps it true."""

    def __init__(self, data_dir: Path, device: Device, manifest: Manifest, ledger: Ledger) -> None:
        self._data_dir = data_dir
        self._handover = Handover(data_dir)
        self._device = device
        self._manifest = manifest
        self._ledger = ledger
        self._kept = Kept()
        self._is_written = True  # what is kept stands on the disk
        self._opened: OpenedOrder | None = None
        self._by: tuple[SiteKey, ...] = ()  # the keys that `_opened` was judged by
        self._waiting = b""  # signed with a key that the Policy does not name, or not yet

    def open(self, now: datetime) -> None:
        """Read back what stood. Never raises for what it finds on the disk."""
        try:
            self._kept = read_kept(self._data_dir)
        except (OSError, ValueError) as error:
            self._kept = Kept()
            because = f"What the site ordered cannot be read: {str(error)[:200]}"
            self._ledger.tell_damage("site-order", because, now)
            self._is_written = isinstance(error, OSError)  # what is no order is written over
        self._judge_kept()
        self._stand(now)
        if self._opened is not None:
            self._tell(self._opened, now)  # power may have failed before it was told

    def hear(self, payload: bytes, now: datetime) -> None:
        """One from the site's broker, which repeats what it retains.

        Raises: as `take`, but for one that is older.
        """
        try:
            self.take(payload, now)
        except SiteOrderOld as error:
            _log.info("An order of the site was passed over: %s", error.what)

    def take(self, payload: bytes, now: datetime) -> bool:
        """Go by it from now on; False if it is the one that is known.

        Raises:
            SiteOrderOld: a newer one was taken before.
            SiteOrderKey: it is kept in mind, for a Policy that may be on its way.
            MailboatError: it does not hold.
        """
        keys = self._keys()
        try:
            opened = opened_for(payload, keys, self._device, now)
        except SiteOrderKey:
            self._waiting = payload
            raise
        self._waiting = b""
        held = self._opened
        if held is not None and (held.keyid, held.order) == (opened.keyid, opened.order):
            return False
        refuse_old(opened, self._kept, keys)
        counters = {
            **self._kept.counters,
            counted_as(opened.order.site, opened.key): (opened.order.counter),
        }
        self._kept = Kept(
            counters=dict(_named_last(counters, opened.order.site, keys)[-KEYS_REMEMBERED:]),
            taken_at=0 if self._is_early(now) else int(now.timestamp()),
            envelope=base64.b64encode(payload).decode(),
        )
        self._opened, self._by = opened, keys
        self._keep()
        self._stand(now)
        self._tell(opened, now)
        return True

    def look(self, now: datetime) -> None:
        """At each look: what was handed over, what the Policy says by now, what is over."""
        if self._device.site == DIRECT_SITE:
            return
        for payload in self._handover.waiting():
            self._try(payload, now)
            self._handover.is_done()
        if self._by != self._keys():
            if self._waiting:
                self._try(self._waiting, now)
            self._judge_kept()
        if self._kept.envelope and not self._kept.taken_at and not self._is_early(now):
            self._kept = replace(self._kept, taken_at=int(now.timestamp()))
            self._is_written = False
        if not self._is_written:
            self._keep()
        self._stand(now)

    def _try(self, payload: bytes, now: datetime) -> None:
        try:
            self.take(payload, now)
        except MailboatError as error:
            _log.warning("An order of the site was not taken: %s", error)
        except Exception as error:  # noqa: BLE001 - a stranger's bytes shall not end what serves
            _log.error("An order of the site met a bug.", exc_info=error)

    def _judge_kept(self) -> None:
        self._opened, self._by = None, self._keys()
        if self._kept.envelope:
            try:
                # Whether its key has ended is asked at each look: the clock may be set right yet.
                self._opened = opened_for(self._kept.payload, self._by, self._device, None)
            except (ValueError, MailboatError) as error:
                _log.warning("What the site ordered does not count any more: %s", error)

    def _stand(self, now: datetime) -> None:
        opened = self._opened
        if opened is not None and now >= opened.key.expires:
            opened = None
        self._device.site_order = (
            None if opened is None else opened.standing(now, taken_at=self._kept.taken_at)
        )

    def _keep(self) -> None:
        """Tried again at each look, for as long as the disk refuses."""
        was_written, self._is_written = self._is_written, True
        try:
            replace_durably(self._data_dir / FILE_NAME, KEPT.dump_json(self._kept))
        except (DiskFull, DiskFailing) as error:
            self._is_written = False
            if was_written:
                _log.warning("The order of the site could not be kept: %s", error)

    def _is_early(self, now: datetime) -> bool:
        """Whether the clock says a time that is certainly past."""
        return stands_before(now, time_floor((), self._ledger.state.time_floor))

    def _keys(self) -> tuple[SiteKey, ...]:
        """Those known before, while the site's Policy cannot be read: nothing falls for that."""
        keys = policy_of(self._device, self._manifest).site_keys
        return self._by if keys is None else keys

    def _tell(self, opened: OpenedOrder, now: datetime) -> None:
        order, key = opened.order, opened.key.key
        self._ledger.tell(
            Event(
                event_id=f"site_ordered:{opened.keyid[:16]}:{order.counter}",
                sequence=1,
                kind=EventKind.SITE_ORDERED,
                observed_at=milliseconds(now),
                code=ORDERED if order.holds or order.rollbacks else LIFTED,
                because=in_words(opened)[:1000],
            ),
            {
                "site": order.site,
                "counter": order.counter,
                "key": key.name,
                "keyid": key.keyid,
                "issued": order.issued,
                "holds": [each.model_dump() for each in order.holds],
                "rollbacks": [each.model_dump() for each in order.rollbacks],
            },
        )


def _named_last(
    counters: Mapping[str, int], site: str, keys: tuple[SiteKey, ...]
) -> list[tuple[str, int]]:
    """So that the counters of keys that are named now are the last to be forgotten."""
    named = {counted_as(site, each) for each in keys}
    return sorted(counters.items(), key=lambda item: item[0] in named)


def in_words(opened: OpenedOrder) -> str:
    order = opened.order
    said = [
        *(f"hold {each.model or 'every model'}: {each.reason}" for each in order.holds),
        *(f"{each.model} back to {each.version}: {each.reason}" for each in order.rollbacks),
    ]
    what = "; ".join(said) or "nothing any more"
    return f"order {order.counter} of site {order.site} by {opened.key.key.name}: {what}"
