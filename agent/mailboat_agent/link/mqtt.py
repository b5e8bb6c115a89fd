"""The device's link to the broker; paho is known here and in `mqtt_client`.

MQTT 5, a persistent session, and nothing relied upon: after every connect it subscribes again and
the outbox asks for its watermark, because a broker may have forgotten both. Messages are
acknowledged after they were handled, so a crash in between brings them again.

paho runs its own thread for one connection; everything it hears is handed to asyncio through one
bounded queue, in order.
"""

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mailboat_agent.background import in_background
from mailboat_agent.link.mqtt_client import PACKET_BYTES_MAX, CarefulClient
from mailboat_agent.update.retry import retry_delay_seconds
from mailboat_schemas.codec import encode
from mailboat_schemas.envelope import PayloadType
from mailboat_schemas.errors import MailboatError
from mailboat_schemas.reports import Presence

SESSION_EXPIRY_SECONDS = 7 * 86_400  # a device that is away for longer starts from hello anyway
RECEIVE_MAX = 20  # unacknowledged messages the broker may have out to us
INCOMING_MAX = 64  # items between paho's thread and asyncio; more than RECEIVE_MAX, so only QoS 0
# messages can find it full, and those are repaired by hello
OUTGOING_MAX = 64  # published and not yet acknowledged by the broker
CONNECT_SECONDS = 10
STABLE_SECONDS = 30  # a connection that lasted so long starts the back-off anew
CLOSE_SECONDS = 2  # for the last presence message to leave

_log = logging.getLogger(__name__)

_NEXT_STEPS = {
    "Client identifier not valid": "use the device id of the certificate",
    "Bad user name or password": "enrol the device again: `mailboat-agent enroll`",
    "Not authorized": "the device may have been revoked; look at the broker's ACL and CRL",
    "Banned": "the device has been revoked; ask an operator",
    "Server unavailable": "the broker is starting or overloaded; it is tried again",
    "Session taken over": "two agents use this identity; stop one, or enrol it anew",
}


@dataclass(frozen=True, slots=True)
class Broker:
    """Where and how to connect. ``tls`` None is plain TCP, for a broker on loopback in tests."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    keepalive_seconds: int = 60
    reconnect_seconds_min: float = 1
    reconnect_seconds_max: float = 60


@dataclass(frozen=True, slots=True)
class LinkUp:
    session_present: bool


@dataclass(frozen=True, slots=True)
class LinkDown:
    reason: str
    problem: MailboatError | None = None  # what the broker did that no broker does


@dataclass(frozen=True, slots=True)
class Message:
    """One publish. Hand it to `Link.acknowledge` once it is dealt with."""

    topic: str
    payload: bytes
    retain: bool
    qos: int
    mid: int
    connection: int  # acknowledged on the connection it came on, or not at all


Incoming = LinkUp | LinkDown | Message


class Link:
    """`run` keeps it connected; `incoming` yields what happens; `publish` never blocks."""

    def __init__(
        self,
        broker: Broker,
        *,
        device: str,
        session: int,
        status_topic: str,
        subscriptions: Sequence[tuple[str, int]],
        seal: Callable[[str, bytes], bytes],
        rng: random.Random,
    ) -> None:
        """``subscriptions`` are (topic, QoS). ``session`` orders births and wills; ``seal`` signs
        them with the device's key (payload type, payload -> envelope)."""
        self._broker = broker
        self._device = device
        self._session = session
        self._status_topic = status_topic
        self._subscriptions = list(subscriptions)
        self._seal = seal
        self._rng = rng
        self._incoming: asyncio.Queue[Incoming] = asyncio.Queue(INCOMING_MAX)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: paho.Client | None = None
        self._connection = 0
        self._ended = asyncio.Event()
        self.connected = False

    async def run(self) -> None:
        """Connect, and again whenever it ends, until cancelled; then say goodbye."""
        self._loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            began = self._loop.time()
            try:
                await self._one_connection()
            finally:
                await self._hang_up()
            attempt = 0 if self._loop.time() - began > STABLE_SECONDS else attempt + 1
            delay_seconds = retry_delay_seconds(
                attempt,
                self._rng,
                seconds_min=self._broker.reconnect_seconds_min,
                seconds_max=self._broker.reconnect_seconds_max,
            )
            await asyncio.sleep(delay_seconds)

    def reconnect(self) -> None:
        """End the connection and make a new one, as with a new certificate."""
        if self.connected:
            self._ended.set()

    async def receive(self) -> Incoming:
        """The next thing that happened on the link, in order."""
        return await self._incoming.get()

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> bool:
        """Hand one message to paho; False if it was not taken and is still the caller's."""
        client = self._client
        if client is None or not self.connected:
            return False
        info = client.publish(topic, payload, qos=qos, retain=retain)
        return info.rc == paho.MQTT_ERR_SUCCESS

    def acknowledge(self, message: Message) -> None:
        """Only now may the broker forget it."""
        if message.qos and self._client is not None and message.connection == self._connection:
            self._client.ack(message.mid, message.qos)

    # --- one connection --------------------------------------------------------------------------

    async def _one_connection(self) -> None:
        self._ended.clear()
        self._connection += 1
        self._client = client = self._new_client(self._connection)
        try:
            connect = partial(
                client.connect,
                self._broker.host,
                self._broker.port,
                self._broker.keepalive_seconds,
                clean_start=False,
                properties=_connect_properties(),
            )
            await in_background(connect, name="connect")
        except (OSError, ValueError) as error:  # paho raises ValueError for a bad host name
            _log.warning(
                "The broker %s:%d does not answer: %s. Next step: check network, name and port; "
                "it is tried again and the device goes on serving.",
                self._broker.host,
                self._broker.port,
                error,
            )
            return
        client.loop_start()
        await self._ended.wait()

    async def _hang_up(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        was_connected, self.connected = self.connected, False

        def say_goodbye() -> None:
            if was_connected:
                with contextlib.suppress(ValueError, RuntimeError):
                    offline = self._presence(online=False)
                    farewell = client.publish(self._status_topic, offline, qos=1, retain=True)
                    farewell.wait_for_publish(CLOSE_SECONDS)
            client.disconnect()
            client.loop_stop()

        # A peer that has gone silent may block paho's thread; nobody waits for that.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS + 1):
                await in_background(say_goodbye, name="goodbye")

    def _new_client(self, connection: int) -> paho.Client:
        """A fresh one for each connection: what an old one had queued, the outbox sends again."""
        client = CarefulClient(
            lambda reason, problem: self._hand_over(connection, LinkDown(reason, problem)),
            CallbackAPIVersion.VERSION2,
            client_id=self._device,
            protocol=paho.MQTTv5,
            userdata=connection,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = CONNECT_SECONDS
        client.max_queued_messages_set(OUTGOING_MAX)
        client.will_set(self._status_topic, self._presence(online=False), qos=1, retain=True)
        if self._broker.tls is not None:
            client.tls_set_context(self._broker.tls)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = _log_refused_publish
        client.on_subscribe = _log_refused_subscription
        return client

    def _presence(self, *, online: bool) -> bytes:
        presence = Presence(device=self._device, session=self._session, online=online)
        return self._seal(PayloadType.PRESENCE, encode(presence))

    # --- paho's thread ---------------------------------------------------------------------------

    def _on_connect(
        self,
        client: paho.Client,
        connection: int,
        flags: paho.ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            _log_refusal("refused the connection", reason)
            return
        # Always, whatever "session present" says: subscribing twice costs one retained message.
        client.subscribe(self._subscriptions)
        client.publish(self._status_topic, self._presence(online=True), qos=1, retain=True)
        self._hand_over(connection, LinkUp(bool(flags.session_present)))

    def _on_disconnect(
        self,
        _client: paho.Client,
        connection: int,
        flags: paho.DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            _log_refusal("ended the connection", reason)
        self._hand_over(connection, LinkDown(str(reason)))

    def _on_message(self, _client: paho.Client, connection: int, message: paho.MQTTMessage) -> None:
        topic, payload, mid = message.topic, bytes(message.payload), message.mid
        incoming = Message(topic, payload, message.retain, message.qos, mid, connection)
        self._hand_over(connection, incoming)

    def _hand_over(self, connection: int, item: Incoming) -> None:
        if self._loop is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: the agent is stopping
            self._loop.call_soon_threadsafe(self._take, connection, item)

    # --- asyncio's thread ------------------------------------------------------------------------

    def _take(self, connection: int, item: Incoming) -> None:
        if connection != self._connection:
            return
        if isinstance(item, LinkDown):
            self._ended.set()
        if not isinstance(item, Message):
            self.connected = isinstance(item, LinkUp)
        try:
            self._incoming.put_nowait(item)
        except asyncio.QueueFull:
            if isinstance(item, Message) and item.qos == 0:
                return  # an ack of the outbox; hello repairs it
        else:
            return
        # A broker that ignores our receive maximum, or a consumer that hangs. Connecting again
        # makes the broker send what was not acknowledged once more.
        _log.warning("More messages arrive than are handled; the connection is made anew.")
        self._ended.set()


def _connect_properties() -> Properties:
    properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = SESSION_EXPIRY_SECONDS
    properties.ReceiveMaximum = RECEIVE_MAX
    properties.MaximumPacketSize = PACKET_BYTES_MAX
    return properties  # type: ignore[no-any-return]


def _log_refusal(what: str, reason: ReasonCode) -> None:
    _log.warning(
        "The broker %s: %s. Next step: %s.",
        what,
        reason,
        _NEXT_STEPS.get(reason.getName(), "look at the broker's log"),
    )


def _log_refused_publish(
    _client: paho.Client, _connection: int, mid: int, reason: ReasonCode, _properties: Properties
) -> None:
    if reason.is_failure:
        _log.warning("The broker refused message %d: %s. Next step: look at its ACL.", mid, reason)


def _log_refused_subscription(
    _client: paho.Client,
    _connection: int,
    _mid: int,
    reasons: list[ReasonCode],
    _properties: Properties,
) -> None:
    for reason in reasons:
        if reason.is_failure:
            _log.warning(
                "The broker refused a subscription: %s. Next step: look at its ACL.", reason
            )
