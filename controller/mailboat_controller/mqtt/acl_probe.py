"""Whether a broker goes by the fleet's rules: it lets the fleet's certificates in, and refuses what
they may not say.
"""

import ssl
import threading

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

PROBE_SECONDS_MAX = 10.0


class BrokerSilent(Exception):
    """The broker did not let us in, or did not answer."""


def publication_is_refused(
    host: str, port: int, tls: ssl.SSLContext, *, name: str, topic: str
) -> bool:
    """Publish an empty message where the holder of ``name`` may not, and see what the broker says.

    MQTT 5 has a reason code for that; blocks for `PROBE_SECONDS_MAX` a step at most. A session that
    the holder has at the broker ends, as whenever its certificate is used twice.

    Args:
        tls: with a certificate of that name.

    Raises:
        BrokerSilent: no session, or no answer.
    """
    let_in, answered = _Answer(), _Answer()
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=name,
        protocol=MQTTProtocolVersion.MQTTv5,
        reconnect_on_failure=False,
    )
    client.tls_set_context(tls)
    client.connect_timeout = PROBE_SECONDS_MAX
    client.on_connect = lambda _client, _data, _flags, reason, _more: let_in.take(reason)
    client.on_disconnect = lambda _client, _data, _flags, reason, _more: let_in.take(reason)
    client.on_publish = lambda _client, _data, _number, reason, _more: answered.take(reason)
    try:
        client.connect(host, port, clean_start=True)
    except OSError as error:
        raise BrokerSilent(str(error)) from error
    client.loop_start()
    try:
        if let_in.wait("it does not answer").is_failure:
            raise BrokerSilent(str(let_in.reason))
        if client.publish(topic, b"", qos=1).rc is not MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise BrokerSilent("the connection ended at once")
        return answered.wait("it does not acknowledge").is_failure
    finally:
        client.disconnect()
        client.loop_stop()


class _Answer:
    """The first reason code of its kind."""

    def __init__(self) -> None:
        self._there = threading.Event()
        self.reason: ReasonCode | None = None

    def take(self, reason: ReasonCode) -> None:
        if not self._there.is_set():
            self.reason = reason
            self._there.set()

    def wait(self, otherwise: str) -> ReasonCode:
        if not self._there.wait(PROBE_SECONDS_MAX) or self.reason is None:
            raise BrokerSilent(otherwise)
        return self.reason
