"""Acknowledgements: a device forgets its events on this word, so it must be the controller's.

An ack is signed by the director that the newest accepted trust metadata names. For a moment after
the director's key was changed the controller may sign with a key that this device has not heard of
yet, so one ack that does not hold is no attack; several in a row are told.
"""

from datetime import datetime

from mailboat_agent.ledger import Ledger
from mailboat_agent.trust.manifest import Manifest
from mailboat_schemas.codec import decode
from mailboat_schemas.device_orders import DeviceDesired
from mailboat_schemas.envelope import Envelope, PayloadType
from mailboat_schemas.errors import SignatureInvalid, WrongTopic
from mailboat_schemas.events import EventKind
from mailboat_schemas.reports import Ack

FORGED_BEFORE_TOLD = 3  # in a row


class AckForged(SignatureInvalid):
    code = "E-ACK-FORGED"


class AckReader:
    """`read` gives the ack, once the director's signature over it held."""

    def __init__(self, *, device: str, manifest: Manifest, ledger: Ledger) -> None:
        self._device = device
        self._manifest = manifest
        self._ledger = ledger
        self._forged = 0  # in a row

    def read(self, payload: bytes, now: datetime) -> Ack:
        """
        Raises:
            AckForged: not signed by the director; nothing is forgotten on it.
            MalformedPayload: not an ack. WrongTopic: another device's.
        """
        envelope = decode(Envelope, payload)
        view = self._manifest.view
        if view is None:
            raise AckForged(
                "An acknowledgement came before any manifest that could vouch for it.",
                next_step="nothing; the outbox asks again.",
            )
        try:
            opened = view.open_from_director(envelope, PayloadType.ACK)
        except SignatureInvalid as error:
            raise self._told(now) from error
        self._forged = 0
        ack = decode(Ack, opened)
        if ack.device != self._device:
            raise WrongTopic(
                f"An acknowledgement for {ack.device} came on this device's topic.",
                next_step="look at the broker's ACL and bridges: somebody repeats messages.",
            )
        return ack

    def open_order(self, payload: bytes) -> DeviceDesired | None:
        """What this device alone is asked, once the director's signature over it held; None while
        there is no manifest that could vouch for it: it is retained and comes again.

        Raises:
            SignatureInvalid: not signed by the director. MalformedPayload: not an order.
            WrongTopic: another device's.
        """
        return open_order(payload, self._manifest, self._device)

    def _told(self, now: datetime) -> AckForged:
        error = AckForged(
            "An acknowledgement is not signed by the controller this device trusts; the events it "
            "speaks of stay in the outbox.",
            next_step="look at who can publish on the device's topics at the broker.",
        )
        self._forged += 1
        if self._forged >= FORGED_BEFORE_TOLD:
            event_id = f"security:{self._ledger.state.session}:ack_forged"
            self._ledger.tell_trouble(EventKind.SECURITY, event_id, error, now)
        return error


def open_order(payload: bytes, manifest: Manifest, device: str) -> DeviceDesired | None:
    """As `AckReader.open_order`."""
    envelope = decode(Envelope, payload)
    if manifest.view is None:
        return None
    opened = manifest.view.open_from_director(envelope, PayloadType.DEVICE_DESIRED)
    order = decode(DeviceDesired, opened)
    if order.device != device:
        raise WrongTopic(
            f"An order for {order.device} came on this device's topic.",
            next_step="look at the broker's ACL and bridges: somebody repeats messages.",
        )
    return order
