"""What MQTT 5 lets us say with a packet."""

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


def kept_session(expiry_seconds: int, receive_maximum: int) -> Properties:
    """With a connect: the session is kept while we are away."""
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = expiry_seconds
    properties.ReceiveMaximum = receive_maximum
    return properties


def answering(correlation_data: bytes | None) -> Properties | None:
    """With a message that answers a request."""
    if correlation_data is None:
        return None
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.CorrelationData = correlation_data
    return properties
