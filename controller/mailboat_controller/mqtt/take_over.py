"""Ending somebody's session at the broker by taking it over.

mosquitto ends a connection when another one comes with its client id, and the client id is the
certificate's name. A revocation alone keeps nobody out who is in already.
"""

import ssl
import threading
from datetime import timedelta

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mailboat_schemas.errors import ServerUnavailable

TAKE_OVER_SECONDS_MAX = 10.0
RETRY_AFTER = timedelta(seconds=5)


def take_over(host: str, port: int, tls: ssl.SSLContext, name: str) -> None:
    """Connect as ``name`` and leave: its connection is closed, its session and queue are gone.

    Blocks for `TAKE_OVER_SECONDS_MAX` at most.

    Args:
        tls: with a certificate of that name.

    Raises:
        ServerUnavailable: the broker cannot be reached, or does not take us; try again.
    """
    answered = threading.Event()
    answers: list[ReasonCode] = []

    def connected(
        _client: Client,
        _userdata: object,
        _flags: ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        answers.append(reason)
        answered.set()

    def disconnected(
        _client: Client,
        _userdata: object,
        _flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        answers.append(reason)
        answered.set()

    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=name,
        protocol=MQTTProtocolVersion.MQTTv5,
        reconnect_on_failure=False,
    )
    client.tls_set_context(tls)
    client.connect_timeout = TAKE_OVER_SECONDS_MAX
    client.on_connect = connected
    client.on_disconnect = disconnected
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 0
    try:
        client.connect(host, port, clean_start=True, properties=properties)
    except OSError as error:
        raise _not_now(name, str(error)) from error
    client.loop_start()
    try:
        taken = answered.wait(TAKE_OVER_SECONDS_MAX)
    finally:
        client.disconnect()
        client.loop_stop()
    if not taken or answers[0].is_failure:
        raise _not_now(name, str(answers[0]) if answers else "it does not answer")


def _not_now(name: str, problem: str) -> ServerUnavailable:
    return ServerUnavailable(
        f"The session of {name} at the broker cannot be ended now: {problem}.",
        next_step="nothing; it is tried again until the broker is there.",
        retry_after=RETRY_AFTER,
    )
