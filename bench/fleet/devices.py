"""Simulated devices: the protocol of the agent, its signatures and its back-off, without an agent.

Everything a device will say is sealed before the story begins, as it would be by ten thousand
processors that are not here. Acknowledgements are read, their signatures are not checked.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgpack
from bench import mqtt_wire as wire

from enrolled_fleet import EPOCH, EnrolledDevice
from mailboat_agent.journal.outbox import HELLO_AFTER_SECONDS
from mailboat_agent.link.mqtt import SESSION_EXPIRY_SECONDS
from mailboat_agent.update.retry import retry_delay_seconds
from mailboat_schemas.codec import decode
from mailboat_schemas.desired import DesiredState, ManifestBundle
from mailboat_schemas.envelope import Envelope
from mailboat_schemas.events import EventKind
from mailboat_schemas.topics import Channel, build

EVENTS = 3  # that each tells of the release
TRIAL_SECONDS = 1.0
RECONNECT_SECONDS_MIN, RECONNECT_SECONDS_MAX = 1.0, 60.0  # the agent's own
KEEPALIVE_SECONDS = 60
LOOK_SECONDS = 1.0
SESSIONS = 4  # connections that are sealed ahead; more use the last again


@dataclass(frozen=True, slots=True)
class Release:
    model: str
    version: str
    digest: str


@dataclass(slots=True)
class Story:
    """What happened to one device, by `time.monotonic`, which all processes share."""

    connected_at: list[float] = field(default_factory=list)
    known_at: list[float] = field(default_factory=list)  # its hello was answered
    notified_at: float | None = None
    confirmed_at: float | None = None  # all its events are on the controller's disk


class Device(asyncio.Protocol):
    def __init__(self, enrolled: EnrolledDevice, release: Release, rng: random.Random) -> None:
        self.story = Story()
        self._rng = rng
        self._manifests = _of_the_class()
        self._acks = enrolled.topic(Channel.ACK)
        self._seal(enrolled, release)
        self._reader = wire.Reader()
        self._transport: asyncio.Transport | None = None
        self._mid = 0
        self._told = 0  # messages of events that may be sent
        self._acked = 0  # events
        self._session = 0
        self._attempt = 0
        self._patience_until = 0.0
        self._answered = False
        self.closing = False
        self.lost: Callable[[float], None] = lambda _delay: None

    def _seal(self, device: EnrolledDevice, release: Release) -> None:
        about = {"model": release.model, "version": release.version, "digest": release.digest}
        kinds = (EventKind.TRIAL_STARTED, EventKind.SOAK_STARTED, EventKind.COMMITTED)
        told = [device.event(n, kind, **about) for n, kind in enumerate(kinds, 1)]
        self._batches = [device.events(told[:1]), device.events(told[1:])]
        self._last = [1, EVENTS]  # sequence of each batch's last event
        self._hello = device.hello(1, EVENTS)
        self._empty_hello = device.hello(EVENTS + 1, EVENTS)
        self._first_hello = device.hello(1, 0)
        self._births = [device.presence(n, online=True) for n in range(SESSIONS)]
        wills = [device.presence(n, online=False) for n in range(SESSIONS)]
        self._connects = [
            wire.connect(
                device.name,
                keepalive_seconds=KEEPALIVE_SECONDS,
                expiry_seconds=SESSION_EXPIRY_SECONDS,
                receive_maximum=20,
                will=(will.topic, will.payload),
            )
            for will in wills
        ]
        serving = {"serving_version": release.version, "serving_digest": release.digest}
        model = {"model": release.model, "phase": "committed", **serving}
        self._reports = [
            device.report(session=0, observed_at=1),
            device.report(session=0, observed_at=2, manifest_counter=1, models=[model]),
        ]

    # --- the connection --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._reader = transport, wire.Reader()
        transport.write(self._connects[self._session])

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport, self._answered = None, False
        self._session = min(self._session + 1, SESSIONS - 1)
        self.fail()

    def fail(self) -> None:
        """No connection: another one after a while."""
        if not self.closing:
            delay = retry_delay_seconds(
                self._attempt,
                self._rng,
                seconds_min=RECONNECT_SECONDS_MIN,
                seconds_max=RECONNECT_SECONDS_MAX,
            )
            self._attempt += 1
            self.lost(delay)

    def close(self) -> None:
        self.closing = True
        if self._transport is not None:
            self._transport.close()

    def data_received(self, content: bytes) -> None:
        for first, body in self._reader.feed(content):
            match first >> 4:
                case wire.CONNACK:
                    self._connected()
                case wire.PUBLISH:
                    topic, payload, mid = wire.read_publish(first, body)
                    self._heard(topic, payload)
                    if mid and self._transport is not None:
                        self._transport.write(wire.puback(mid))

    def _connected(self) -> None:
        self._attempt = 0
        self.story.connected_at.append(time.monotonic())
        assert self._transport is not None
        filters = [(self._manifests, 1), (self._acks, 0)]
        self._transport.write(wire.subscribe(self._next_mid(), filters))
        self._say(self._births[self._session], retain=True)
        self._say(self._reports[min(self._told, 1)], retain=True)
        self._ask()

    def _ask(self) -> None:
        """What does the controller have? Nothing else is sent before the answer."""
        self._answered = False
        self._patience_until = time.monotonic() + HELLO_AFTER_SECONDS
        if not self._told:
            self._say(self._first_hello)
        else:
            self._say(self._hello if self._acked < EVENTS else self._empty_hello)

    def look(self, now: float) -> None:
        """Now and then: ask again when nothing came of what was said."""
        waits = not self._answered or self._acked < (self._last[self._told - 1] * bool(self._told))
        if self._transport is not None and waits and now >= self._patience_until:
            self._ask()

    def ping(self) -> None:
        if self._transport is not None:
            self._transport.write(wire.PINGREQ)

    # --- what it hears ---------------------------------------------------------------------------

    def _heard(self, topic: str, payload: bytes) -> None:
        if topic == self._acks:
            self._confirmed(payload)
        elif topic == self._manifests and self.story.notified_at is None and _assigns(payload):
            self.story.notified_at = time.monotonic()
            self._tell()
            asyncio.get_running_loop().call_later(TRIAL_SECONDS, self._tell)

    def _tell(self) -> None:
        """The next step of the update: its events, then what stands now."""
        self._told += 1
        self._patience_until = time.monotonic() + HELLO_AFTER_SECONDS
        if self._transport is not None and self._answered:
            self._say(self._batches[self._told - 1])
            self._say(self._reports[1], retain=True)

    def _confirmed(self, payload: bytes) -> None:
        ack = msgpack.unpackb(msgpack.unpackb(payload)["payload"])
        now = time.monotonic()
        if ack["epoch"] != EPOCH:
            return
        self._acked = max(self._acked, ack["events_acked"])
        if self._acked >= EVENTS and self.story.confirmed_at is None:
            self.story.confirmed_at = now
        self._patience_until = now + HELLO_AFTER_SECONDS
        if not self._answered:
            self._answered = True
            if len(self.story.known_at) < len(self.story.connected_at):
                self.story.known_at.append(now)
            for batch, last in zip(self._batches[: self._told], self._last, strict=False):
                if last > self._acked:
                    self._say(batch)

    def _say(self, message: object, *, retain: bool = False) -> None:
        if self._transport is not None:
            topic, payload = message.topic, message.payload  # type: ignore[attr-defined]
            packet = wire.publish(topic, payload, self._next_mid(), retain=retain)
            self._transport.write(packet)

    def _next_mid(self) -> int:
        self._mid = self._mid % 65_535 + 1
        return self._mid


def _of_the_class() -> str:
    from enrolled_fleet import CLASS, FLEET

    return build(Channel.MANIFEST, fleet=FLEET, hardware_class=CLASS)


_read: dict[bytes, bool] = {}


def _assigns(payload: bytes) -> bool:
    """Whether a manifest names a release; each is read once in a process."""
    if payload not in _read:
        desired = decode(Envelope, decode(ManifestBundle, payload).desired).payload
        _read[payload] = bool(decode(DesiredState, desired).assignments)
    return _read[payload]
