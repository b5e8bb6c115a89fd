"""What goes out and what comes in: the outbox and the report over the link, messages to whom they
concern. Every message is acknowledged to the broker after it was dealt with."""

import logging
from collections.abc import Callable
from datetime import datetime

from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.device_orders import DeviceOrders
from mailboat_agent.errand import Unforeseen
from mailboat_agent.facts import Device
from mailboat_agent.journal.outbox import Outbox
from mailboat_agent.ledger import Ledger
from mailboat_agent.link.acknowledgement import AckForged, AckReader
from mailboat_agent.link.flapping import Flapping
from mailboat_agent.link.mqtt import Incoming, Link, LinkDown, LinkUp, Message
from mailboat_agent.logs.answers import LogAnswers
from mailboat_agent.reconcile import Reconciler
from mailboat_agent.report import Reporter, says_the_same
from mailboat_schemas import topics
from mailboat_schemas.errors import DiskFull, MailboatError, WrongTopic
from mailboat_schemas.events import EventKind
from mailboat_schemas.names import DIRECT_SITE
from mailboat_schemas.reports import ReportedState
from mailboat_schemas.topics import TOPICS, Channel

# By the reader of acknowledgements, when they repeat; the disk is nobody's attack.
NOT_TOLD = AckForged | DiskFull | DiskFailing
_log = logging.getLogger(__name__)


def topic_of(channel: Channel, device: Device) -> str:
    """One of this device's own topics, or one of its class."""
    if channel in (Channel.MANIFEST, Channel.FRESH):
        return topics.build(channel, fleet=device.fleet, hardware_class=device.hardware_class)
    if channel is Channel.SITE_ORDER:
        return topics.build(channel, fleet=device.fleet, site=device.site)
    return topics.build(channel, fleet=device.fleet, site=device.site, device=device.device)


def subscriptions(device: Device) -> list[tuple[str, int]]:
    channels = [Channel.FRESH, Channel.MANIFEST, Channel.DESIRED, Channel.ACK]
    if device.site != DIRECT_SITE:
        channels.append(Channel.SITE_ORDER)
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
        acks: AckReader,
        ledger: Ledger,
        report_seconds_min: float,
        log_answers: LogAnswers,
        orders: DeviceOrders,
    ) -> None:
        self._device = device
        self._link = link
        self._outbox = outbox
        self._reporter = reporter
        self._reconciler = reconciler
        self._acks = acks
        self._ledger = ledger
        self._report_seconds_min = report_seconds_min
        self._log_answers = log_answers
        self._orders = orders
        self.named_manifest: Callable[[int], object] = bool  # nobody listens yet
        self._flapping = Flapping()
        self._reported: ReportedState | None = None  # what the broker has
        self._reported_at = 0.0
        self.heard_at = 0.0  # when something last came that held and was news, monotonic

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
                self._flapping.up(monotonic)
                self._outbox.on_connected(monotonic)
                self._log_answers.on_connected(monotonic)
                self._reported = None  # a broker may have forgotten what it retained
            case LinkDown():
                _log.info("The link to the broker is down: %s", item.reason)
                if item.problem is not None:
                    self._tell("link", item.problem, now)
                taken = self._flapping.down(monotonic, item.reason)
                if taken is not None:
                    self._tell("session", taken, now)
                self._outbox.on_disconnected()
            case Message():
                self._handle_message(item, now, monotonic)
                self._link.acknowledge(item)

    def _handle_message(self, message: Message, now: datetime, monotonic: float) -> None:
        try:
            self._deliver(message, now, monotonic)
        except MailboatError as error:
            # It would be no better the next time, so it is acknowledged all the same.
            _log.warning("A message on %s was dropped: %s", message.topic[:200], error)
            if not isinstance(error, NOT_TOLD):
                self._tell("message", error, now)
        except Exception as error:  # noqa: BLE001 - a stranger's bytes shall not end what serves
            _log.error("A message on %s met a bug.", message.topic[:200], exc_info=error)
            self._tell("message", Unforeseen(f"{type(error).__name__}: {error}"), now)

    def _deliver(self, message: Message, now: datetime, monotonic: float) -> None:
        channel = topics.parse(message.topic).channel
        if message.topic != topic_of(channel, self._device):
            raise WrongTopic(
                f"A message on {message.topic} is not for this device.",
                next_step="look at the broker's ACL and bridges.",
            )
        if channel is not Channel.ACK:
            self._outbox.on_heard(monotonic)
        match channel:
            case Channel.MANIFEST:
                if self._reconciler.take_manifest(message.payload, now):
                    self.heard_at = monotonic
            case Channel.FRESH:
                self._reconciler.take_fresh(message.payload, now)
            case Channel.ACK:
                ack = self._acks.read(message.payload, now)
                self.heard_at = monotonic
                self._outbox.on_ack(ack, monotonic)
                self.named_manifest(ack.manifest_counter)
            case Channel.DESIRED:
                if message.payload:  # empty: there never was one, or it was cleared
                    order = self._acks.open_order(message.payload)
                    if order is not None:
                        self._log_answers.take(order, now, monotonic)
                        self._orders.take(order, message.payload)
            case Channel.SITE_ORDER:
                if message.payload:
                    self._orders.site.hear(message.payload, now)
            case _:
                _log.info("A message on %s is of a kind that is not used yet.", message.topic)

    def _tell(self, what: str, error: MailboatError, now: datetime) -> None:
        """A security event; one for each kind in a session, however often it is tried."""
        event_id = f"security:{self._ledger.state.session}:{what}:{error.code}"
        self._ledger.tell_trouble(EventKind.SECURITY, event_id, error, now)

    # --- out -------------------------------------------------------------------------------------

    def look(self, now: datetime) -> None:
        """What was handed over at the device itself, and what ends by the clock."""
        self._orders.site.look(now)

    def send(self, now: datetime, monotonic: float) -> None:
        """Publish what the outbox wants sent now, and a part of the log if one was asked for."""
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
        if not outgoing:  # what was asked for goes after what must be told
            self._send_log(now, monotonic)

    def _send_log(self, now: datetime, monotonic: float) -> None:
        part = self._log_answers.due(now, monotonic)
        if part is not None:
            topic = topic_of(Channel.LOGS, self._device)
            if not self._link.publish(topic, part, qos=1, retain=False):
                self._log_answers.not_sent()

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
