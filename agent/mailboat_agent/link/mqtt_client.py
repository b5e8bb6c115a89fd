"""paho, made careful: says so when its thread fails, reads no packet above our maximum."""

from collections.abc import Callable
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import MQTTErrorCode

from mailboat_schemas.errors import MailboatError, PayloadTooLarge
from mailboat_schemas.topics import TOPICS

PACKET_BYTES_MAX = max(rule.payload_bytes_max for rule in TOPICS.values()) + 4096
REASON_CHARS_MAX = 300


class PacketTooLarge(PayloadTooLarge):
    code = "E-PACKET-TOO-LARGE"


class CarefulClient(paho.Client):
    """``on_failure`` is called in paho's thread, with a reason and what the broker did wrong.

    An exception ends that thread without a word, and a malformed packet of a broker raises one: a
    device that did not notice would be deaf until it is started again. And a broker that ignores
    the maximum packet size we connect with could make us hold 256 MiB.
    """

    def __init__(
        self,
        on_failure: Callable[[str, MailboatError | None], None],
        *arguments: Any,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._on_failure = on_failure

    def _sock_recv(self, bufsize: int) -> bytes:
        """paho asks for what is left of a packet; the first time that is its whole length."""
        if bufsize > PACKET_BYTES_MAX:
            problem = PacketTooLarge("packet of the broker", bufsize, PACKET_BYTES_MAX)
            self._on_failure(problem.what, problem)
            raise ConnectionAbortedError(problem.what)
        return super()._sock_recv(bufsize)

    def loop_forever(
        self, timeout: float = 1.0, retry_first_connection: bool = False
    ) -> MQTTErrorCode:
        try:
            return super().loop_forever(timeout, retry_first_connection)
        except Exception as error:  # noqa: BLE001 - whatever it is, the link is made anew
            reason = f"what the broker sent cannot be read: {error!r}"[:REASON_CHARS_MAX]
            self._on_failure(reason, None)
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
