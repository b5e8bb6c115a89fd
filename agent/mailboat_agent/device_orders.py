"""Orders for this device alone: kept as they were signed, and in force again after a restart.

The kept bytes are verified again at every start. Where they do not verify any more, as after the
director's key was changed while the device was off, they do not count until the controller, which
repeats what stands, has said them anew. A disk that refuses them changes nothing for this process.
"""

import logging
from datetime import datetime
from pathlib import Path

from mailboat_agent.atomic_file import DiskFailing, replace_durably
from mailboat_agent.facts import Device
from mailboat_agent.link.acknowledgement import AckReader, open_order
from mailboat_agent.site_orders import SiteOrders
from mailboat_agent.trust.kept_manifests import read_bounded
from mailboat_agent.trust.manifest import Manifest
from mailboat_schemas.device_orders import DeviceDesired
from mailboat_schemas.envelope import Envelope
from mailboat_schemas.errors import DiskFull, MailboatError

FILE_NAME = "device-order.msgpack"
_log = logging.getLogger(__name__)


class DeviceOrders:
    """`open` once, `take` what comes; ``device.order`` is what stands."""

    def __init__(
        self,
        data_dir: Path,
        device: Device,
        reader: AckReader,
        manifest: Manifest,
        site: SiteOrders,
    ) -> None:
        """``site`` has what the device's own site orders, which counts where none of these does."""
        self._path = data_dir / FILE_NAME
        self._device = device
        self.reader = reader
        self._manifest = manifest
        self.site = site

    def open(self, now: datetime) -> None:
        """Read back what stood. Never raises for what it finds on the disk."""
        self.site.open(now)
        order = kept_order(self._path.parent, self._manifest, self._device.device)
        if order is not None:
            self._accept(order)

    def take(self, order: DeviceDesired, payload: bytes) -> bool:
        """One whose signature held; False for one that is no news. The newest counter wins."""
        held = self._device.order
        if held is not None and order.counter <= held.counter:
            if order.counter == held.counter:
                self._say_again(held, payload)
            return False
        if held is None or (order.holds, order.pins) != (held.holds, held.pins):
            _log.info(
                "%d holds and %d pins stand for this device.", len(order.holds), len(order.pins)
            )
        self._accept(order)
        self._keep(payload)
        return True

    def _say_again(self, held: DeviceDesired, payload: bytes) -> None:
        """The controller repeats what stands, signed anew and with another ``issued``."""
        self._bring_documents(held)  # the bundle that has them may have come since
        # The director's key may be another by now, or the disk was full when the first one came.
        # Nothing is written as long as what is kept still counts.
        if kept_order(self._path.parent, self._manifest, self._device.device) is None:
            self._keep(payload)

    def _keep(self, payload: bytes) -> None:
        try:
            replace_durably(self._path, payload)
        except (DiskFull, DiskFailing) as error:
            _log.warning("The order for this device could not be kept: %s", error)

    def _accept(self, order: DeviceDesired) -> None:
        self._device.order = order
        self._bring_documents(order)

    def _bring_documents(self, order: DeviceDesired) -> None:
        for pin in order.pins:
            self._manifest.bring_document(pin.digest)


def kept_order(data_dir: Path, manifest: Manifest, device: str) -> DeviceDesired | None:
    """What stood when it came, if it still holds against the newest trust metadata."""
    try:
        payload = read_bounded(data_dir / FILE_NAME, Envelope.wire_bytes_max)
        return open_order(payload, manifest, device)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, MailboatError) as error:
        _log.warning("The order kept for this device does not count any more: %s", error)
        return None
