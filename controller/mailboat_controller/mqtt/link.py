"""The controller's connection to the broker; the only module here that knows paho.

paho runs its own thread for each connection. Messages wait in a bounded inbox and are taken in
batches; each is acknowledged, in the order received, only when the caller says that it is on disk.
Each connection gets a fresh paho client: nothing of a dead connection (packet ids, half-sent
messages) can reach the next one. What was not acknowledged, the broker sends again; what was not
confirmed, the caller does.
"""

import asyncio
import contextlib
import random
import ssl
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import structlog
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mailboat_controller.mqtt.buffered_client import BufferedClient
from mailboat_controller.mqtt.inbox import Delivery, Inbox
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.mqtt.properties import answering, kept_session
from mailboat_schemas.errors import NotPermitted, ServerUnavailable
from mailboat_schemas.topics import Channel, subscription

CLIENT_ID = "controller"
SESSION_EXPIRY_SECONDS = 7 * 86_400
KEEPALIVE_SECONDS = 30
# At least twice the batch, or the broker waits for us while we wait for a full batch.
RECEIVE_MAXIMUM = 5000
INFLIGHT_MESSAGES_MAX = 100  # of ours, not yet confirmed
CONFIRM_SECONDS_MAX = 30.0
CONNECT_SECONDS_MAX = 10.0
RECONNECT_SECONDS_MIN = 0.5
RECONNECT_SECONDS_MAX = 30.0
_REFUSED = 0x80  # reason codes from here on are refusals

DEVICE_CHANNELS = (
    Channel.EVENTS,
    Channel.TELEMETRY,
    Channel.LOGS,
    Channel.HELLO,
    Channel.REPORT,
    Channel.STATUS,
)
EVERY_CHANNEL = (*DEVICE_CHANNELS, Channel.SUBMIT)

_log = structlog.get_logger(__name__)


class Link:
    """One session with the broker, kept up for ever by `run`."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        fleet: str,
        tls: ssl.SSLContext | None,
        rng: random.Random,
        client_id: str = CLIENT_ID,
        channels: Sequence[Channel] = EVERY_CHANNEL,
        filters: Sequence[str] = (),
    ) -> None:
        """
        Args:
            filters: what else we hear, such as of the broker itself.
            channels: what we hear; a session that heard others before is told to stop that.
            tls: with the controller's certificate; None speaks plainly, for tests on loopback.
            rng: for the jitter of reconnects.
        """
        self._host = host
        self._port = port
        self._fleet = fleet
        self._tls = tls
        self._rng = rng
        self._client_id = client_id
        self._channels, self._filters = tuple(channels), tuple(filters)
        self._loop = asyncio.get_running_loop()
        self._inbox = Inbox(self._loop)
        self._client: BufferedClient | None = None
        self._connected = asyncio.Event()
        self._ended = asyncio.Event()
        self._unconfirmed: dict[int, asyncio.Future[ReasonCode]] = {}
        self._window = asyncio.Semaphore(INFLIGHT_MESSAGES_MAX)
        self._on_connected: Callable[[], None] = lambda: None
        self.connections = 0
        self.sessions_lost = 0  # connects at which the broker had no session of ours

    @property
    def connected(self) -> bool:
        return self._connected.is_set()

    async def until_connected(self) -> None:
        await self._connected.wait()

    async def run(self, on_connected: Callable[[], None]) -> None:
        """Connect, stay connected, come back with full jitter. Ends only by cancellation.

        Args:
            on_connected: called in the loop after every connect, once it is subscribed.
        """
        attempt = 0
        self._on_connected = on_connected
        while True:
            self._ended.clear()
            client = self._fresh_client()
            try:
                await asyncio.to_thread(self._connect, client)
                client.loop_start()
                await self._ended.wait()
                attempt = 0 if self._connected.is_set() else attempt
            except OSError as error:
                _log.warning(
                    "broker unreachable", host=self._host, port=self._port, problem=str(error)
                )
            finally:
                self._drop(client)
                await asyncio.shield(asyncio.to_thread(_stop, client))
            attempt += 1
            await asyncio.sleep(self._delay_seconds(attempt))

    async def batch(self) -> list[Delivery]:
        return await self._inbox.batch()

    @property
    def waiting(self) -> bool:  # a part of the next batch, at least
        return self._inbox.waiting

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Tell the broker it may forget these. Only after the commit, in the order received."""
        # Of a connection that is gone, nothing: the broker delivers it again on this one.
        if client := self._client:
            mine = (each for each in deliveries if each.connection is client and each.qos)
            client.acknowledge([each.mid for each in mine])

    def send(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """QoS 0: True when it went into the socket's queue."""
        if self._client is None or not self.connected:
            return False
        info = self._client.publish(topic, payload, qos=0, retain=retain)
        return info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int,
        retain: bool,
        correlation_data: bytes | None = None,
    ) -> None:
        """Publish and wait until the broker has confirmed it (QoS 1).

        Raises:
            ServerUnavailable: not connected, or no confirmation; send it again.
            NotPermitted: the broker refused it.
        """
        async with self._window:
            client = self._client
            if client is None or not self.connected:
                raise _unavailable("the broker is not connected")
            info = client.publish(
                topic, payload, qos=qos, retain=retain, properties=answering(correlation_data)
            )
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                raise _unavailable(f"the message for {topic} was not taken: {info.rc!s}")
            if qos == 0:
                return
            # The confirmation is handed to this loop, so it cannot come before this line.
            confirmed = self._loop.create_future()
            self._unconfirmed[info.mid] = confirmed
            try:
                reason = await asyncio.wait_for(confirmed, CONFIRM_SECONDS_MAX)
            except TimeoutError:
                raise _unavailable(f"no confirmation for {topic}") from None
            finally:
                self._unconfirmed.pop(info.mid, None)
        if reason.value >= _REFUSED:
            raise NotPermitted(
                f"The broker refused {topic}: {reason!s} (0x{reason.value:02x}).",
                next_step="give user 'controller' readwrite on the fleet's topics in the broker's "
                "acl (broker-config/mosquitto/acl).",
            )

    def _fresh_client(self) -> BufferedClient:
        client = BufferedClient(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        if self._tls is not None:
            client.tls_set_context(self._tls)
        client.connect_timeout = CONNECT_SECONDS_MAX
        client.max_inflight_messages_set(INFLIGHT_MESSAGES_MAX)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    def _connect(self, client: BufferedClient) -> None:
        client.connect(
            self._host,
            self._port,
            keepalive=KEEPALIVE_SECONDS,
            clean_start=False,  # paho's default would delete the session at every start
            properties=kept_session(SESSION_EXPIRY_SECONDS, RECEIVE_MAXIMUM),
        )
        self._client = client

    def _on_connect(
        self,
        client: Client,
        _userdata: Any,
        flags: ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            _log.error(
                "broker refused the connection",
                reason=str(reason),
                next_step="see the broker's log; our certificate must name this client id.",
                client_id=self._client_id,
            )
            return
        _log.info("broker connected", session_present=flags.session_present)
        # Always: the broker may have lost the session while saying otherwise.
        wanted = [subscription(c, fleet=self._fleet) for c in self._channels]
        client.subscribe([(each, 1) for each in (*wanted, *self._filters)])
        others = [c for c in EVERY_CHANNEL if c not in self._channels]
        if others and flags.session_present:
            client.unsubscribe([subscription(c, fleet=self._fleet) for c in others])
        if not flags.session_present:
            self.sessions_lost += 1

    def _on_disconnect(
        self,
        client: Client,
        _userdata: Any,
        _flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        def ended() -> None:
            if client is self._client:
                self._ended.set()

        told = _log.warning if reason.is_failure else _log.info
        told("broker disconnected", reason=str(reason))
        self._call(ended)

    def _on_subscribe(
        self,
        client: Client,
        _userdata: Any,
        _mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        """Connected counts from here: before, nobody's message would reach us."""
        for channel, reason in zip(self._channels, reasons, strict=False):
            if reason.value >= _REFUSED:
                _log.error(
                    "broker refused a subscription",
                    channel=channel,
                    reason=str(reason),
                    next_step="see broker-config/mosquitto/README.md",
                )

        def connected() -> None:
            if client is self._client:
                self.connections += 1
                self._connected.set()
                self._on_connected()

        self._call(connected)

    def _on_message(self, client: Client, _userdata: Any, message: MQTTMessage) -> None:
        topic, properties = "not-utf-8", message.properties
        with contextlib.suppress(UnicodeDecodeError):
            topic = message.topic
        incoming = Incoming(
            topic=topic,
            payload=bytes(message.payload),
            retain=message.retain,
            response_topic=getattr(properties, "ResponseTopic", None),
            correlation_data=getattr(properties, "CorrelationData", None),
        )
        delivery = Delivery(incoming, client, message.mid, message.qos)
        self._inbox.put(delivery, lambda: client is self._client)

    def _on_publish(
        self,
        client: Client,
        _userdata: Any,
        mid: int,
        reason: ReasonCode,
        _properties: Properties,
    ) -> None:
        def confirm() -> None:
            confirmed = self._unconfirmed.get(mid)
            if client is self._client and confirmed is not None and not confirmed.done():
                confirmed.set_result(reason)

        self._call(confirm)

    def _drop(self, client: Client) -> None:
        """A connection is over: nothing of it may be waited for."""
        if self._client is client:
            self._client = None
        self._connected.clear()
        self._inbox.clear()
        for confirmed in self._unconfirmed.values():
            if not confirmed.done():
                confirmed.set_exception(_unavailable("the connection was lost"))
        self._unconfirmed.clear()

    def _call(self, action: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
            self._loop.call_soon_threadsafe(action)

    def _delay_seconds(self, attempt: int) -> float:
        """Full jitter below a doubling bound."""
        bound = min(RECONNECT_SECONDS_MIN * 2 ** min(attempt, 16), RECONNECT_SECONDS_MAX)
        return self._rng.uniform(0, bound)


def _stop(client: Client) -> None:
    """End a client and its thread; blocks until the thread is gone."""
    client.disconnect()
    client.loop_stop()


def _unavailable(what: str) -> ServerUnavailable:
    return ServerUnavailable(
        f"{what[:1].upper()}{what[1:]}.",
        next_step="nothing; it is sent again after the reconnect.",
        retry_after=timedelta(seconds=1),
    )
