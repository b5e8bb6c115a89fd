"""What goes out and what comes in: the outbox and the report over the link, messages to whom they
concern. Every message is acknowledged to the broker after it was dealt with."""

import logging
from datetime import datetime

from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.facts import Device
from mailboat_agent.mqtt import Incoming, Link, LinkDown, LinkUp, Message
from mailboat_agent.outbox import Outbox
from mailboat_agent.reconcile import Reconciler
from mailboat_agent.report import Reporter, says_the_same
from mailboat_schemas import topics
from mailboat_schemas.codec import decode
from mailboat_schemas.errors import DiskFull, MailboatError, WrongTopic
from mailboat_schemas.reports import Ack, ReportedState
from mailboat_schemas.topics import TOPICS, Channel

_log = logging.getLogger(__name__)


def topic_of(channel: Channel, device: Device) -> str:
    """One of this device's own topics, or one of its class."""
    if channel in (Channel.MANIFEST, Channel.FRESH):
        return topics.build(channel, fleet=device.fleet, hardware_class=device.hardware_class)
    return topics.build(channel, fleet=device.fleet, site=device.site, device=device.device)


def subscriptions(device: Device) -> list[tuple[str, int]]:
    channels = (Channel.FRESH, Channel.MANIFEST, Channel.DESIRED, Channel.ACK)
    return [(topic_of(channel, device), TOPICS[channel].qos) for channel in channels]


class Correspondence:
    """Times are handed in: ``now`` for people, ``monotonic`` for spans."""

    def __init__(
        self,
        *,
        device: Device,
        link: Link,
        outbox: Outbox,
        reporter: Reporter,
        reconciler: Reconciler,
        report_seconds_min: float,
    ) -> None:
        self._device = device
        self._link = link
        self._outbox = outbox
        self._reporter = reporter
        self._reconciler = reconciler
        self._report_seconds_min = report_seconds_min
        self._reported: ReportedState | None = None  # what the broker has
        self._reported_at = 0.0
        self.heard_at = 0.0  # when the controller's side last said something, monotonic

    @property
    def connected(self) -> bool:
        return self._link.connected

    @property
    def unconfirmed(self) -> dict[str, int]:
        """Rows without the controller's confirmation; 0 while the journal does not answer."""
        try:
            events, everything = self._outbox.events_depth, self._outbox.depth
        except (DiskFull, DiskFailing):
            return {"events": 0, "telemetry": 0}
        return {"events": events, "telemetry": everything - events}

    # --- in --------------------------------------------------------------------------------------

    def handle(self, item: Incoming, now: datetime, monotonic: float) -> None:
        match item:
            case LinkUp():
                _log.info("Connected to the broker.")
                self._outbox.on_connected(monotonic)
                self._reported = None  # a broker may have forgotten what it retained
            case LinkDown():
                _log.info("The link to the broker is down: %s", item.reason)
                self._outbox.on_disconnected()
            case Message():
                self._handle_message(item, now, monotonic)
                self._link.acknowledge(item)

    def _handle_message(self, message: Message, now: datetime, monotonic: float) -> None:
        try:
            channel = topics.parse(message.topic).channel
            if message.topic != topic_of(channel, self._device):
                raise WrongTopic(
                    f"A message on {message.topic} is not for this device.",
                    next_step="look at the broker's ACL and bridges.",
                )
            match channel:
                case Channel.MANIFEST:
                    self.heard_at = monotonic
                    self._reconciler.take_manifest(message.payload, now)
                case Channel.FRESH:
                    self.heard_at = monotonic
                    self._reconciler.take_fresh(message.payload, now)
                case Channel.ACK:
                    self.heard_at = monotonic
                    self._outbox.on_ack(decode(Ack, message.payload), monotonic)
                case _:
                    _log.info("A message on %s is of a kind that is not used yet.", message.topic)
        except MailboatError as error:
            # It would be no better the next time, so it is acknowledged all the same.
            _log.warning("A message on %s was dropped: %s", message.topic[:200], error)

    # --- out -------------------------------------------------------------------------------------

    def send(self, monotonic: float) -> None:
        """Publish what the outbox wants sent now."""
        if not self._link.connected:
            return
        try:
            outgoing = self._outbox.due(monotonic)
        except (DiskFull, DiskFailing) as error:
            _log.warning("The journal cannot be read: %s", error)
            return
        for item in outgoing:
            topic = topic_of(item.channel, self._device)
            if not self._link.publish(topic, item.payload, qos=1, retain=False):
                self._outbox.on_not_sent(monotonic)
                return

    def report(self, report: ReportedState, monotonic: float) -> None:
        """Publish the report if it says something new, and not too often."""
        too_soon = self._reported is not None and (
            monotonic - self._reported_at < self._report_seconds_min
        )
        if too_soon or not self._link.connected or says_the_same(self._reported, report):
            return
        topic = topic_of(Channel.REPORT, self._device)
        if self._link.publish(topic, self._reporter.seal(report), qos=1, retain=True):
            self._reported, self._reported_at = report, monotonic
