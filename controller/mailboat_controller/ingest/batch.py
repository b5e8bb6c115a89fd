"""What devices tell, taken into the database: one transaction for each batch of messages.

The watermark rule (MQTT.md section 3): a row is stored only when everything before it is, so the
watermark is the acknowledgement and duplicates need no index. A gap asks the device to go back; the
broker may lose, repeat and delay as it likes. Poison goes to the quarantine and is acknowledged,
because redelivery would not make it better; its rows stay in the device's outbox.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

from mailboat_controller.ingest import doubles
from mailboat_controller.ingest.batch_reading import UNREAD_CODE, read_events, read_telemetry
from mailboat_controller.ingest.doubles import DeviceDoubled
from mailboat_controller.ingest.live_windows import LiveWindow, LiveWindows
from mailboat_controller.ingest.opening import open_payload, require_own
from mailboat_controller.ingest.partition import device_of
from mailboat_controller.ingest.watermark_rule import DeviceStreams
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.store import (
    audit,
    deliveries,
    device_signs,
    devices,
    events,
    manifests,
    outcomes,
    quarantine,
    tables,
    telemetry,
    watermarks,
)
from mailboat_controller.store.events import UnreadRow
from mailboat_controller.store.savepoint import savepoint
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.codec import decode
from mailboat_schemas.envelope import PayloadType
from mailboat_schemas.errors import (
    MailboatError,
    NotPermitted,
    PayloadTooLarge,
    WrongTopic,
)
from mailboat_schemas.events import Event
from mailboat_schemas.names import is_label
from mailboat_schemas.reports import Ack, Hello, Presence, ReportedState, TelemetryWindow
from mailboat_schemas.topics import TOPICS, Channel, Topic, parse

FLOODING_ACTION = "device.flooding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What a batch led to, to be acted on once its transaction has been committed."""

    acks: tuple[tuple[str, Ack], ...]  # topic and payload
    changed: bool  # something a rollout is decided on
    submissions: tuple[Incoming, ...]  # not handled here
    events: Mapping[str, int]  # stored, by kind
    windows: int
    quarantined: Mapping[str, int]  # by error code
    dropped: int = 0  # of older messages in the quarantine
    doubled: int = 0  # devices of which it was told anew that there seem to be two
    live: tuple[LiveWindow, ...] = ()  # of releases that were accepted here


def ingest(
    tx: Transaction,
    messages: Iterable[Incoming],
    *,
    fleet: str,
    now: datetime,
    flooding: Mapping[str, int] = MappingProxyType({}),
) -> Ingested:
    """Take a batch into the caller's transaction. Never raises for what a message says.

    Args:
        flooding: how many messages of a device were ignored because it says too much, to be told.
    """
    wanted = tuple(messages)
    batch = _Batch(tx, fleet, now, wanted)
    for device, count in flooding.items():
        batch.tell_flooding(device, count)
    for message in wanted:
        batch.take(message)
    return batch.finish()


class _Batch:
    def __init__(
        self, tx: Transaction, fleet: str, now: datetime, messages: Iterable[Incoming]
    ) -> None:
        self._tx = tx
        self._fleet = fleet
        self._now = now
        # Locked once, in one order, so that two processes that take in the same device's messages
        # (a take-over, a change of the partitions) wait for each other.
        named = {device_of(message.topic) for message in messages} - {None}
        self._rows = devices.lock(tx, {name for name in named if name and is_label(name)})
        self._devices: dict[str, DeviceStreams] = {}
        self._doubled = 0
        self._submissions: list[Incoming] = []
        self._changed = False
        self._events: Counter[str] = Counter()
        self._windows = 0
        self._live = LiveWindows()
        self._quarantined: Counter[str] = Counter()
        self._poisoned: set[str] = set()
        self._counters: dict[str, int] = {}
        self._take: Mapping[Channel, Callable[[DeviceStreams, Incoming], None]] = MappingProxyType(
            {
                Channel.EVENTS: self._take_events,
                Channel.TELEMETRY: self._take_telemetry,
                Channel.HELLO: self._take_hello,
                Channel.REPORT: self._take_report,
                Channel.STATUS: self._take_status,
            }
        )

    def take(self, message: Incoming) -> None:
        try:
            topic = self._admit(message)
            if topic.channel is Channel.SUBMIT:
                self._submissions.append(message)
                return
            device = self._device(topic)
            before = device.copy()
            try:
                with savepoint(self._tx):
                    self._take[topic.channel](device, message)
            except MailboatError as error:
                # What was undone in the database is undone here too.
                self._devices[topic["device"]] = before
                if isinstance(error, DeviceDoubled):
                    self._tell_doubled(before, doubles.OTHER_EVENTS)
                raise
        except MailboatError as error:
            self._set_aside(message, error.code, error.what)

    def tell_flooding(self, device: str, count: int) -> None:
        """Into the audit log, if the device is one of ours."""
        if devices.by_name(self._tx, device) is not None:
            audit.append(
                self._tx,
                at=self._now,
                actor="controller",
                action=FLOODING_ACTION,
                subject=device,
                reason=f"it says more than it may: {count} messages were not heard; they stay in "
                "its outbox and come again",
                details={"ignored": count},
            )

    def _tell_doubled(self, device: DeviceStreams, sign: str) -> None:
        self._doubled += doubles.tell(self._tx, device.row, sign, self._now)
        device.row = replace(device.row, doubled_at=self._now, doubled_by=sign)

    def _set_aside(self, message: Incoming, code: str, problem: str) -> None:
        self._quarantined[code] += 1
        self._poisoned.add(message.topic)
        quarantine.put(
            self._tx,
            topic=message.topic,
            code=code,
            problem=problem,
            payload=message.payload,
            at=self._now,
        )

    def finish(self) -> Ingested:
        acks: list[tuple[str, Ack]] = []
        for name, device in self._devices.items():
            for epoch in sorted(device.touched):
                watermarks.put(self._tx, name, epoch, device.marks[epoch], self._now)
            counter = self._manifest_counter(device.row.hardware_class)
            acks += [device.ack(self._fleet, epoch, counter) for epoch in sorted(device.to_ack)]
        seen = {name: self._now for name, device in self._devices.items() if device.seen}
        device_signs.mark_seen_many(self._tx, seen)
        return Ingested(
            acks=tuple(acks),
            changed=self._changed,
            submissions=tuple(self._submissions),
            events=dict(self._events),
            windows=self._windows,
            quarantined=dict(self._quarantined),
            dropped=quarantine.trim(self._tx, self._poisoned),
            doubled=self._doubled,
            live=self._live.accepted(self._tx),
        )

    def _manifest_counter(self, hardware_class: str) -> int:
        if hardware_class not in self._counters:
            self._counters[hardware_class] = manifests.counter_of(self._tx, hardware_class)
        return self._counters[hardware_class]

    def _admit(self, message: Incoming) -> Topic:
        """Everything that can be said before reading the payload."""
        topic = parse(message.topic)
        if topic["fleet"] != self._fleet or (
            topic.channel is not Channel.SUBMIT and topic.channel not in self._take
        ):
            raise WrongTopic(
                f"{message.topic} is not for this controller.",
                next_step="look at the subscriptions and bridges of the broker.",
            )
        size_bytes_max = TOPICS[topic.channel].payload_bytes_max
        if len(message.payload) > size_bytes_max:
            raise PayloadTooLarge(topic.channel, len(message.payload), size_bytes_max)
        return topic

    def _device(self, topic: Topic) -> DeviceStreams:
        name = topic["device"]
        known = self._devices.get(name)
        if known is None:
            row = self._rows.get(name)
            if row is None:
                raise NotPermitted(
                    f"Device {name} is not enrolled here.",
                    next_step="enrol it, or look at which certificates the broker accepts.",
                )
            known = DeviceStreams(row, watermarks.of_device(self._tx, name))
            self._devices[name] = known
        if known.row.revoked:
            raise NotPermitted(
                f"Device {name} is revoked.", next_step="block its certificate at the broker too."
            )
        if known.row.site != topic["site"]:
            raise WrongTopic(
                f"Device {name} belongs to site {known.row.site}, not {topic['site']}.",
                next_step="look at the bridge of that site, or enrol the device anew.",
            )
        return known

    def _take_events(self, device: DeviceStreams, message: Incoming) -> None:
        name = device.row.device
        payload = open_payload(device, message, PayloadType.EVENT_BATCH)
        batch = read_events(payload)
        require_own(name, batch.device)
        mark = device.mark(self._tx, batch.epoch, self._now)
        fresh = device.unstored(batch.epoch, batch.rows, batch.first, mark.events)
        doubles.refuse_other_events(self._tx, device, batch, mark.events)
        if fresh:
            stored = fresh
            if len(device.marks) > 1:
                # The journal was lost once: the device tells again what its state implies, with
                # the same ids, in another epoch.
                told = events.already_told(self._tx, name, [e.event_id for e in fresh])
                stored = tuple(event for event in fresh if event.event_id not in told)
            events.append(self._tx, name, batch.epoch, stored, self._now)
            read = [event for event in stored if isinstance(event, Event)]
            changed = outcomes.fold(self._tx, name, read, self._now)
            deliveries.fold(self._tx, device.row.hardware_class, read)
            self._changed = self._changed or changed
            self._events.update(event.kind.value for event in read)
            self._events.update([tables.UNKNOWN_KIND] * (len(stored) - len(read)))
            self._note_unread(message, stored)
            sign = doubles.sign_of_two(batch.epoch, device.marks, fresh)
            if sign is not None:
                self._tell_doubled(device, sign)
            device.advance(batch.epoch, replace(mark, events=fresh[-1].sequence))
        device.to_ack.add(batch.epoch)
        device.seen = True

    def _take_telemetry(self, device: DeviceStreams, message: Incoming) -> None:
        payload = open_payload(device, message, PayloadType.TELEMETRY_BATCH)
        batch = read_telemetry(payload)
        require_own(device.row.device, batch.device)
        mark = device.mark(self._tx, batch.epoch, self._now)
        fresh = device.unstored(batch.epoch, batch.rows, batch.first, mark.telemetry)
        if fresh:
            # A window that cannot be read is passed over: the next one tells how things stand.
            read = [window for window in fresh if isinstance(window, TelemetryWindow)]
            telemetry.append(
                self._tx,
                device.row.device,
                batch.epoch,
                read,
                self._now,
                clock_offset_ms=device.row.clock_offset_ms or 0,
            )
            self._windows += len(read)
            self._live.add(device.row.hardware_class, read)
            self._note_unread(message, fresh)
            device.advance(batch.epoch, replace(mark, telemetry=fresh[-1].sequence))
        device.to_ack.add(batch.epoch)
        device.seen = True

    def _note_unread(self, message: Incoming, rows: Iterable[object]) -> None:
        unread = [row for row in rows if isinstance(row, UnreadRow)]
        if unread:
            numbers = f"{unread[0].sequence} ({unread[0].problem})"
            problem = f"{len(unread)} rows cannot be read here, the first is {numbers}"
            self._set_aside(message, UNREAD_CODE, problem)

    def _take_hello(self, device: DeviceStreams, message: Incoming) -> None:
        hello = decode(Hello, open_payload(device, message, PayloadType.HELLO))
        require_own(device.row.device, hello.device)
        mark = device.mark(self._tx, hello.epoch, self._now)
        device.pass_over_lost(self._tx, hello, mark, self._now)
        device.to_ack.add(hello.epoch)
        device.seen = True

    def _take_report(self, device: DeviceStreams, message: Incoming) -> None:
        report = decode(ReportedState, open_payload(device, message, PayloadType.REPORTED_STATE))
        row = device.row
        require_own(row.device, report.device)
        if (report.fleet, report.hardware_class) != (self._fleet, row.hardware_class):
            raise WrongTopic(
                f"The report of {row.device} speaks of {report.fleet}/{report.hardware_class}; "
                f"it is enrolled in {self._fleet}/{row.hardware_class}.",
                next_step="enrol the device anew in its right class.",
            )
        if not device_signs.set_report(self._tx, report, at=self._now):
            return
        # Brokers and bridges deliver retained reports again and again: only news is a sign of life.
        held = row.report
        newer = held is None or (held["session"], held["observed_at"]) < (
            report.session,
            report.observed_at,
        )
        if newer:
            device.seen = device.seen or not message.retain
            self._changed = True
        if not message.retain:
            device_signs.measure_clock(self._tx, row, report, at=self._now)
        device.row = devices.get(self._tx, row.device)

    def _take_status(self, device: DeviceStreams, message: Incoming) -> None:
        presence = decode(Presence, open_payload(device, message, PayloadType.PRESENCE))
        require_own(device.row.device, presence.device)
        device_signs.set_presence(
            self._tx,
            device.row.device,
            session=presence.session,
            online=presence.online,
            at=self._now,
        )
