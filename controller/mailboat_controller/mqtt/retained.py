"""What a broker has retained, heard once: before a recovered controller says anything itself.

A connection of its own, of the controller's name, with a session that ends with it: whatever waited
for the controller comes again, because devices keep what nobody has acknowledged.
"""

import queue
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import structlog
from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.mqtt.link import CLIENT_ID, CONNECT_SECONDS_MAX, KEEPALIVE_SECONDS
from mailboat_controller.mqtt.properties import kept_session

RECEIVE_MAXIMUM = 1000
WAITING_MAX = 10_000  # of a large fleet's reports; the broker waits for us beyond that
RETRY_SECONDS = 2.0
STEP_SECONDS = 0.2  # how soon a stop is noticed

_log = structlog.get_logger(__name__)


def listen(
    *,
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
    filters: Sequence[str],
    stopped: Callable[[], bool],
) -> Iterator[Incoming | None]:
    """Messages as they come, and None whenever none has come for `STEP_SECONDS`.

    Connects, and connects again, until ``stopped``; the first None or message says that the broker
    has taken the subscriptions.
    """
    inbox: queue.Queue[Incoming] = queue.Queue(WAITING_MAX)
    heard = _Heard()
    while not stopped():
        client = _client(inbox, heard, filters, tls)
        try:
            client.connect(
                host,
                port,
                keepalive=KEEPALIVE_SECONDS,
                clean_start=True,
                properties=kept_session(0, RECEIVE_MAXIMUM),
            )
            client.loop_start()
            yield from _messages(client, inbox, heard, stopped)
            _rest(stopped)
        except OSError as error:
            _log.error(
                "the broker is not reachable; nothing is published before it was heard",
                host=host,
                port=port,
                problem=str(error),
            )
            _rest(stopped)
        finally:
            heard.ended = True
            client.disconnect()
            client.loop_stop()


class _Heard:
    """What paho's thread notes for ours."""

    def __init__(self) -> None:
        self.subscribed = False
        self.ended = False


def _client(
    inbox: "queue.Queue[Incoming]",
    heard: _Heard,
    filters: Sequence[str],
    tls: ssl.SSLContext | None,
) -> Client:
    heard.subscribed = heard.ended = False
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=CLIENT_ID,
        protocol=MQTTProtocolVersion.MQTTv5,
        reconnect_on_failure=False,
    )
    if tls is not None:
        client.tls_set_context(tls)
    client.connect_timeout = CONNECT_SECONDS_MAX

    def on_connect(
        client: Client,
        _userdata: Any,
        _flags: ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            _log.error("the broker refused the connection", reason=str(reason))
        else:
            client.subscribe([(each, 1) for each in filters])

    def on_subscribe(
        client: Client, _userdata: Any, _mid: int, reasons: list[ReasonCode], _properties: Any
    ) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:  # hearing nothing would be taken for there being nothing
            _log.error("the broker refused a subscription; nothing is published", reasons=refused)
            client.disconnect()
        else:
            heard.subscribed = True

    def on_disconnect(*_told: Any) -> None:
        heard.ended = True

    def on_message(_client: Client, _userdata: Any, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        incoming = Incoming(topic=topic, payload=bytes(message.payload), retain=message.retain)
        while not heard.ended:  # a full inbox makes the broker wait, never our own end
            try:
                inbox.put(incoming, timeout=STEP_SECONDS)
            except queue.Full:
                continue
            return

    client.on_connect = on_connect
    client.on_subscribe = on_subscribe
    client.on_disconnect = on_disconnect
    client.on_message = on_message
    return client


def _messages(
    client: Client, inbox: "queue.Queue[Incoming]", heard: _Heard, stopped: Callable[[], bool]
) -> Iterator[Incoming | None]:
    while not stopped():
        try:
            yield inbox.get(timeout=STEP_SECONDS)
        except queue.Empty:
            if heard.ended or not client.is_connected():
                if heard.ended:
                    _log.warning("the broker ended the connection; connecting again")
                    return
                continue
            if heard.subscribed:
                yield None


def _rest(stopped: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + RETRY_SECONDS
    while time.monotonic() < ends_at and not stopped():
        time.sleep(STEP_SECONDS)
