"""What devices tell, taken into the database: one transaction for each batch of messages.

The watermark rule (MQTT.md section 3): a row is stored only when everything before it is, so the
watermark is the acknowledgement and duplicates need no index. A gap asks the device to go back; the
broker may lose, repeat and delay as it likes. Poison goes to the quarantine and is acknowledged,
because redelivery would not make it better; its rows stay in the device's outbox.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType

from mailboat_controller.device_logs.taking import take_excerpt
from mailboat_controller.ingest import doubles, flood_telling
from mailboat_controller.ingest.batch_reading import UNREAD_CODE, read_events, read_telemetry
from mailboat_controller.ingest.doubles import DeviceDoubled
from mailboat_controller.ingest.failure_lines import Failing
from mailboat_controller.ingest.fleet_figures import FleetFigures
from mailboat_controller.ingest.opening import OpenedAhead, require_own
from mailboat_controller.ingest.partition import device_of
from mailboat_controller.ingest.pending_rows import PendingRows
from mailboat_controller.ingest.signs_of_life import take_presence, take_report
from mailboat_controller.ingest.watermark_rule import DeviceStreams
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.store import (
    device_signs,
    devices,
    events,
    fleet_sums,
    manifests,
    quarantine,
    watermarks,
)
from mailboat_controller.store.events import UnreadRow
from mailboat_controller.store.savepoint import savepoint
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.store.watermarks import Watermark
from mailboat_schemas.codec import decode
from mailboat_schemas.envelope import PayloadType
from mailboat_schemas.errors import (
    MailboatError,
    MalformedPayload,
    NotPermitted,
    WrongTopic,
)
from mailboat_schemas.names import is_label
from mailboat_schemas.reports import Ack, Hello, TelemetryWindow
from mailboat_schemas.topics import Channel, Topic

# Their rows are gathered; whatever may refuse them does so before anything is written.
_GATHERED = frozenset({Channel.EVENTS, Channel.TELEMETRY, Channel.HELLO})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What a batch led to, to be acted on once its transaction has been committed."""

    acks: tuple[tuple[str, Ack], ...]  # topic and payload
    changed: bool  # something a rollout is decided on
    submissions: tuple[Incoming, ...]  # not handled here
    events: Mapping[str, int]  # stored, by kind
    windows: int
    quarantined: Mapping[str, int]  # by error code
    failures: Mapping[Failing, int] = field(default_factory=dict)  # by release and kind
    dropped: int = 0  # of older messages in the quarantine
    answered: Mapping[tuple[str, str], datetime] = field(default_factory=dict)  # model, class
    doubled: int = 0  # devices of which it was told anew that there seem to be two


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
    try:
        with savepoint(tx):
            return _Batch(tx, fleet, now, wanted).run(wanted, flooding)
    except MalformedPayload:
        # Written together, one row that the database cannot hold keeps the others out as well.
        batch = _Batch(tx, fleet, now, wanted, one_by_one=True)
        return batch.run(wanted, flooding)


class _Batch:
    def __init__(
        self,
        tx: Transaction,
        fleet: str,
        now: datetime,
        messages: Sequence[Incoming],
        *,
        one_by_one: bool = False,
    ) -> None:
        """
        Args:
            one_by_one: every message's rows are written, or undone, by themselves.
        """
        self._tx = tx
        self._one_by_one = one_by_one
        self._fleet = fleet
        self._now = now
        # Locked once, in one order, so that two processes that take in the same device's messages
        # (a take-over, a change of the partitions) wait for each other.
        named = {device_of(message.topic) for message in messages} - {None}
        self._rows = devices.lock(tx, {name for name in named if name and is_label(name)})
        self._marks = watermarks.of_devices(tx, self._rows)
        self._devices: dict[str, DeviceStreams] = {}
        self._opened = OpenedAhead(messages, self._rows, fleet)
        self._doubled = 0
        self._submissions: list[Incoming] = []
        self._changed = False
        self._figures = FleetFigures()
        self._pending = PendingRows(tx, now, self._figures)
        self._quarantined: Counter[str] = Counter()
        self._poisoned: set[str] = set()
        self._counters: dict[str, int] = {}

    def run(self, messages: Sequence[Incoming], flooding: Mapping[str, int]) -> Ingested:
        for device, count in flooding.items():
            flood_telling.tell(self._tx, device, count, self._now)
        for message in messages:
            self._take_one(message)
        return self._finish()

    def _take_one(self, message: Incoming) -> None:
        try:
            topic = self._opened.topic(message)
            if topic.channel is Channel.SUBMIT:
                self._submissions.append(message)
                return
            device = self._device(topic)
            before = device.copy()
            try:
                with self._undoable(topic.channel):
                    _TAKE[topic.channel](self, device, message)
            except MailboatError as error:
                # What was undone in the database is undone here too.
                self._devices[topic["device"]] = before
                if isinstance(error, DeviceDoubled):
                    self._tell_doubled(before, doubles.OTHER_EVENTS)
                raise
        except MailboatError as error:
            self._set_aside(message, error.code, error.what)

    @contextmanager
    def _undoable(self, channel: Channel) -> Iterator[None]:
        if channel in _GATHERED and not self._one_by_one:
            yield  # raises, if at all, before it has written anything
            return
        with savepoint(self._tx):
            yield
            if self._one_by_one:
                self._pending.write()

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

    def _finish(self) -> Ingested:
        self._pending.write()
        acks: list[tuple[str, Ack]] = []
        marks: dict[tuple[str, str], Watermark] = {}
        for name, device in self._devices.items():
            marks |= {(name, epoch): device.marks[epoch] for epoch in sorted(device.touched)}
            counter = self._manifest_counter(device.row.hardware_class)
            acks += [device.ack(self._fleet, epoch, counter) for epoch in sorted(device.to_ack)]
        known = {name: self._marks.get(name, {}) for name in self._devices}
        watermarks.put_all(self._tx, marks, known, self._now)
        seen = {name: self._now for name, device in self._devices.items() if device.seen}
        device_signs.mark_seen_many(self._tx, seen)
        fleet_sums.add(self._tx, self._figures.accepted_sums(self._tx), self._now)
        return Ingested(
            acks=tuple(acks),
            changed=self._changed or self._pending.changed,
            submissions=tuple(self._submissions),
            events=dict(self._pending.kinds),
            windows=self._pending.windows,
            quarantined=dict(self._quarantined),
            failures=dict(self._pending.failures),
            dropped=quarantine.trim(self._tx, self._poisoned),
            answered=self._figures.answered_until(self._now),
            doubled=self._doubled,
        )

    def _manifest_counter(self, hardware_class: str) -> int:
        if hardware_class not in self._counters:
            self._counters[hardware_class] = manifests.counter_of(self._tx, hardware_class)
        return self._counters[hardware_class]

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
            known = DeviceStreams(row, dict(self._marks.get(name, {})))
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
        batch = read_events(self._opened.payload(device.row, message, PayloadType.EVENT_BATCH))
        require_own(name, batch.device)
        reached = device.reached(batch.epoch).events
        if batch.first <= reached:
            self._pending.write()  # what is stored is looked at: is it the same?
        fresh = device.unstored(batch.epoch, batch.rows, batch.first, reached)
        doubles.refuse_other_events(self._tx, device, batch, reached)
        mark = device.mark(self._tx, batch.epoch, self._now)
        if fresh:
            stored = fresh
            if len(device.marks) > 1:
                # The journal was lost once: the device tells again what its state implies, with
                # the same ids, in another epoch.
                self._pending.write()
                told = events.already_told(self._tx, name, [e.event_id for e in fresh])
                stored = tuple(event for event in fresh if event.event_id not in told)
            self._pending.add_events(device.row, batch.epoch, stored)
            self._note_unread(message, stored)
            sign = doubles.sign_of_two(batch.epoch, device.marks, fresh)
            if sign is not None:
                self._tell_doubled(device, sign)
            device.advance(batch.epoch, replace(mark, events=fresh[-1].sequence))
        device.to_ack.add(batch.epoch)
        device.seen = True

    def _take_telemetry(self, device: DeviceStreams, message: Incoming) -> None:
        batch = read_telemetry(
            self._opened.payload(device.row, message, PayloadType.TELEMETRY_BATCH)
        )
        require_own(device.row.device, batch.device)
        reached = device.reached(batch.epoch).telemetry
        fresh = device.unstored(batch.epoch, batch.rows, batch.first, reached)
        mark = device.mark(self._tx, batch.epoch, self._now)
        if fresh:
            # A window that cannot be read is passed over: the next one tells how things stand.
            read = [window for window in fresh if isinstance(window, TelemetryWindow)]
            self._pending.add_windows(device.row, batch.epoch, read)
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
        hello = decode(Hello, self._opened.payload(device.row, message, PayloadType.HELLO))
        require_own(device.row.device, hello.device)
        # Two losses are two entries in the audit log, or none when the second is one too many.
        with savepoint(self._tx) if device.misses_rows(hello) else nullcontext():
            mark = device.mark(self._tx, hello.epoch, self._now)
            device.pass_over_lost(self._tx, hello, mark, self._now)
        device.to_ack.add(hello.epoch)
        device.seen = True

    def _take_report(self, device: DeviceStreams, message: Incoming) -> None:
        payload = self._opened.payload(device.row, message, PayloadType.REPORTED_STATE)
        news = take_report(
            self._tx,
            device,
            payload,
            fleet=self._fleet,
            retained=message.retain,
            now=self._now,
        )
        self._changed = self._changed or news

    def _take_logs(self, device: DeviceStreams, message: Incoming) -> None:
        payload = self._opened.payload(device.row, message, PayloadType.LOG_EXCERPT)
        take_excerpt(self._tx, device.row.device, payload, self._now)

    def _take_status(self, device: DeviceStreams, message: Incoming) -> None:
        payload = self._opened.payload(device.row, message, PayloadType.PRESENCE)
        take_presence(self._tx, device, payload, self._now)


# Not in the batch itself: a circle would keep its rows in memory until the next garbage collection.
_TAKE: Mapping[Channel, Callable[[_Batch, DeviceStreams, Incoming], None]] = MappingProxyType(
    {
        Channel.EVENTS: _Batch._take_events,
        Channel.TELEMETRY: _Batch._take_telemetry,
        Channel.HELLO: _Batch._take_hello,
        Channel.REPORT: _Batch._take_report,
        Channel.STATUS: _Batch._take_status,
        Channel.LOGS: _Batch._take_logs,
    }
)
