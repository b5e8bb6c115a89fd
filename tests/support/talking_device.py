"""The half of an agent that tells: its journal on a real disk, its outbox and its link; nothing is
installed and nothing served."""

import asyncio
import random
import ssl
from contextlib import suppress
from pathlib import Path

from enrolled_fleet import FLEET, EnrolledDevice
from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.journal.outbox import Outbox
from mailboat_agent.link.mqtt import Broker, Link, LinkDown, LinkUp, Message
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.envelope import Envelope, sign_as_device
from mailboat_schemas.events import EventKind
from mailboat_schemas.reports import Ack
from mailboat_schemas.topics import Channel, build

LOOK_SECONDS = 0.02


class TalkingDevice:
    def __init__(
        self, directory: Path, device: EnrolledDevice, port: int, tls: ssl.SSLContext | None
    ) -> None:
        self.device = device
        rng = random.Random(device.name)
        directory.mkdir()
        self.journal = Journal(directory / "journal.db", rng)
        self.outbox = Outbox(device.name, self.journal, self._seal, rng)
        self._link_to = Broker(
            "127.0.0.1", port, tls, reconnect_seconds_min=0.05, reconnect_seconds_max=0.5
        )
        self._rng = rng
        self.recorded = 0
        self.connections = 0

    def record(self, count: int) -> None:
        """So many events more, durable before any of them is told."""
        for _ in range(count):
            self.recorded += 1
            event = self.device.event(self.recorded, EventKind.TRUST_STALE)
            self.journal.record_event(event)

    @property
    def unconfirmed(self) -> int:
        return self.outbox.events_depth

    async def live(self, finished: asyncio.Event) -> None:
        """Until ``finished`` is set."""
        link = Link(
            self._link_to,
            device=self.device.name,
            session=1,
            status_topic=self.device.topic(Channel.STATUS),
            subscriptions=[(self.device.topic(Channel.ACK), 0)],
            seal=self._seal,
            rng=self._rng,
        )
        running = asyncio.create_task(link.run())
        try:
            while not finished.is_set():
                await self._turn(link)
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    async def _turn(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                match await link.receive():
                    case LinkUp():
                        self.connections += 1
                        self.outbox.on_connected(loop.time())
                    case LinkDown():
                        self.outbox.on_disconnected()
                    case Message() as message:
                        ack = decode(Ack, decode(Envelope, message.payload).payload)
                        self.outbox.on_ack(ack, loop.time())
                        link.acknowledge(message)
        if not link.connected:
            return
        for item in self.outbox.due(loop.time()):
            topic = build(item.channel, fleet=FLEET, site=self.device.site, device=self.device.name)
            if not link.publish(topic, item.payload, qos=1, retain=False):
                self.outbox.on_not_sent(loop.time())
                return

    def _seal(self, payload_type: str, payload: bytes) -> bytes:
        return encode(sign_as_device(payload_type, payload, self.device.key, self.device.name))
