"""A message of a device, opened: whose key signed it, and for whom it speaks."""

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from mailboat_controller.ingest.watermark_rule import DeviceStreams
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_schemas.codec import decode
from mailboat_schemas.envelope import Envelope, open_from_device
from mailboat_schemas.errors import NotPermitted, WrongTopic


def open_payload(device: DeviceStreams, message: Incoming, payload_type: str) -> bytes:
    """The payload, once the signature by the device's registered key held."""
    envelope = decode(Envelope, message.payload)
    key = load_der_public_key(device.row.public_key)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise NotPermitted(
            f"Device {device.row.device} is enrolled with a key that cannot sign messages.",
            next_step="enrol it anew with a P-256 key.",
        )
    return open_from_device(envelope, payload_type, key, device.row.device)


def require_own(device: str, named: str) -> None:
    """
    Raises:
        WrongTopic: the message speaks for another device than its topic says.
    """
    if named != device:
        raise WrongTopic(
            f"A message on the topic of {device} speaks for {named[:63]}.",
            next_step="look at the broker's access rules: devices write to their own topics only.",
        )
