"""The device's half of the outbox protocol: go-back-N over a broker that may forget anything.

No network and no clock; rows come from the journal. A row leaves the journal only on the
controller's watermark. After a (re)connect, and when nothing has moved for a while, a hello asks
for the watermark; the answer says where to send from. Whatever is lost, doubled or late, every row
arrives exactly once and in order, because the controller stores only the row after its watermark.

State events go first. Of telemetry the newest goes next, and what is recorded meanwhile; history
follows at a bounded rate, with jitter: a site whose link heals brings a week of many devices.

Source: MQTT.md section 3, measured over broker, controller and device kills.
"""

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.journal.stream import Stream
from mailboat_agent.update.retry import retry_delay_seconds
from mailboat_schemas.codec import WireModel, encode
from mailboat_schemas.envelope import PayloadType
from mailboat_schemas.errors import DiskFull
from mailboat_schemas.events import EVENTS_PER_BATCH_MAX, EventBatch
from mailboat_schemas.reports import Ack, Hello, Span, TelemetryBatch
from mailboat_schemas.topics import Channel

Seal = Callable[[str, bytes], bytes]  # payload type, payload -> bytes of the signed envelope

HELLO_AFTER_SECONDS = 3.0  # without progress while rows wait
# Without an answer. At a site that is cut off each of these waits in its broker's queue.
HELLO_AFTER_SECONDS_MAX = 900.0
HELLOS_COUNTED_MAX = 4  # once the centre was heard of: the next delay is below a minute again
HEARD_SPREAD_SECONDS = 10.0  # the centre is heard again: a site's devices ask within so long
BATCHES_IN_FLIGHT_MAX = 8  # of events; a link of 1 s round trip still moves 800 of them a second
# One at a time: what is on its way cannot be merged any more, and waits for an answer.
TELEMETRY_BATCHES_IN_FLIGHT_MAX = 1
EVENT_BATCH_BYTES_MAX = 96 * 1024  # of rows; leaves room for the envelope under 112 KiB
TELEMETRY_WINDOWS_PER_BATCH_MAX = 200
TELEMETRY_BATCH_BYTES_MAX = 192 * 1024
HISTORY_SECONDS = 1.0  # between two batches of history on average, half of it jitter either way
HISTORY_BEGINS_SECONDS_MAX = 10.0  # after the newest was sent, drawn anew for each connection


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to publish, QoS 1, not retained."""

    channel: Channel
    payload: bytes


@dataclass(slots=True)
class _History:
    """Of one connection: what was recorded up to the number ``upto`` goes when it is due."""

    upto: int | None = None  # nothing was sent yet, and the newest goes at once
    due_at: float = 0.0


class Outbox:
    """Ask `due` for what to publish; tell it what happens. Times are of a monotonic clock."""

    def __init__(self, device: str, rows: Journal, seal: Seal, rng: random.Random) -> None:
        """``seal`` signs with the device's key: nothing leaves that others could have said."""
        self._device = device
        self._rows = rows
        self._seal = seal
        self._rng = rng
        # The journal is asked when there is something to send: a full disk may keep it closed, and
        # that is no reason not to serve.
        self._epoch = ""
        self._events = self._telemetry = Stream(acked=0, sent=0, sent_ever=0)
        self._connected = False
        self._waits_for_answer = False  # a hello is out: nothing is sent before its answer
        self._undeleted = False  # rows that are acknowledged and still on the disk
        self._hello_due_at = 0.0
        self._hellos = 0  # in a row, without any progress
        self._history = _History()

    @property
    def depth(self) -> int:
        """Rows that the controller has not confirmed."""
        return self.events_depth + self._rows.held_telemetry().windows

    @property
    def events_depth(self) -> int:
        """State events among them."""
        return _length(self._rows.span_events())

    def on_connected(self, now: float) -> None:
        self._connected = True
        self._hellos = 0
        self._history = _History()
        self._ask(now)

    def on_disconnected(self) -> None:
        self._connected = False

    def on_heard(self, now: float) -> None:
        """The centre said something to all: a manifest, published anew by a controller that is
        back, or delivered anew over a bridge that is. Who has long been waiting for an answer asks
        soon, and no more than once for each `HEARD_SPREAD_SECONDS`. Nothing is believed on it.
        """
        self._hellos = min(self._hellos, HELLOS_COUNTED_MAX)
        if self._waits_for_answer and self._hello_due_at > now + HEARD_SPREAD_SECONDS:
            self._hello_due_at = now + HEARD_SPREAD_SECONDS * self._rng.random()

    def on_not_sent(self, now: float) -> None:
        """What `due` gave last was not taken by the link: it must be given again."""
        self._ask(now + HELLO_AFTER_SECONDS)

    def on_ack(self, ack: Ack, now: float) -> None:
        """The controller's watermark, its signature verified; it can only move us forward."""
        if ack.epoch != self._epoch:
            return
        if self._waits_for_answer and self._lost_rows(ack):
            self._rows.begin_epoch_anew()  # `due` notices
            return
        self._hellos = min(self._hellos, HELLOS_COUNTED_MAX)
        moved = False
        for stream, acked in (
            (self._events, ack.events_acked),
            (self._telemetry, ack.telemetry_acked),
        ):
            if stream.take_ack(acked):
                self._hellos = 0
                stream.patience_until = now + self._hello_delay_seconds()
                moved = True
        if moved or self._undeleted:
            self._undeleted = True  # a disk that refuses does so in this line
            self._rows.acknowledge(self._events.acked, self._telemetry.acked)
            self._undeleted = False
        if self._waits_for_answer:
            self._waits_for_answer = False
            self._events.rewind()
            self._telemetry.rewind()
        elif ack.rewind:
            self._events.rewind_unless_just_done(now)
            self._telemetry.rewind_unless_just_done(now)

    def _lost_rows(self, ack: Ack) -> bool:
        """The answer to a hello speaks of rows that were lost here, so it cannot be waited for."""
        return self._events.is_beyond(ack.events_acked) or self._telemetry.is_beyond(
            ack.telemetry_acked
        )

    def due(self, now: float) -> list[Outgoing]:
        """What to publish now, in this order; empty when there is nothing or no link."""
        if not self._connected:
            return []
        if self._rows.epoch != self._epoch:
            self._begin_epoch(now)
        if self._hello_is_due(now):
            return [self._hello(now)]
        if self._waits_for_answer:
            return []
        idle = [each for each in (self._events, self._telemetry) if not each.in_flight]
        outgoing = self._due_events()
        # State events first; history only when they are all on their way.
        if self._events.sent >= self._rows.span_events().last:
            with suppress(DiskFull):  # what is handed out has to be noted first
                outgoing += self._due_telemetry(now)
        for stream in idle:
            stream.patience_until = now + self._hello_delay_seconds()
        return outgoing

    def _begin_epoch(self, now: float) -> None:
        """The first one, or the journal was damaged and began anew: nothing of the old one will
        ever be confirmed."""
        self._epoch = self._rows.epoch
        self._events = Stream.of(self._rows.span_events())
        self._telemetry = Stream.of(self._rows.span_telemetry())
        self._hellos = 0
        self._ask(now)

    # --- hello -----------------------------------------------------------------------------------

    def _ask(self, at: float) -> None:
        self._hello_due_at = at
        self._waits_for_answer = True
        self._events.rewind()
        self._telemetry.rewind()

    def _hello_is_due(self, now: float) -> bool:
        if self._waits_for_answer:
            return now >= self._hello_due_at
        return self._events.is_overdue(now) or self._telemetry.is_overdue(now)

    def _hello(self, now: float) -> Outgoing:
        self._waits_for_answer = True
        self._hellos += 1
        self._hello_due_at = now + self._hello_delay_seconds()
        hello = Hello(
            device=self._device,
            epoch=self._epoch,
            events=self._rows.span_events(),
            telemetry=self._rows.span_telemetry(),
        )
        return self._sealed(Channel.HELLO, PayloadType.HELLO, hello)

    def _hello_delay_seconds(self) -> float:
        """3 s, then up to twice as long each time, with full jitter: a fleet must not ask in
        step."""
        if self._hellos <= 1:
            return HELLO_AFTER_SECONDS
        return HELLO_AFTER_SECONDS + retry_delay_seconds(
            self._hellos,
            self._rng,
            seconds_min=HELLO_AFTER_SECONDS,
            seconds_max=HELLO_AFTER_SECONDS_MAX - HELLO_AFTER_SECONDS,
        )

    # --- rows ------------------------------------------------------------------------------------

    def _due_events(self) -> list[Outgoing]:
        outgoing = []
        while len(self._events.in_flight) < BATCHES_IN_FLIGHT_MAX:
            events = self._rows.events_after(
                self._events.sent, EVENTS_PER_BATCH_MAX, EVENT_BATCH_BYTES_MAX
            )
            if not events:
                break
            batch = EventBatch(
                device=self._device,
                epoch=self._epoch,
                first=events[0].sequence,
                events=tuple(events),
            )
            outgoing.append(self._sealed(Channel.EVENTS, PayloadType.EVENT_BATCH, batch))
            self._events.note_sent(events[-1].sequence)
        return outgoing

    def _due_telemetry(self, now: float) -> list[Outgoing]:
        outgoing: list[Outgoing] = []
        stream, history = self._telemetry, self._history
        while len(stream.in_flight) < TELEMETRY_BATCHES_IN_FLIGHT_MAX:
            handed_out = self._rows.windows_to_send(
                stream.sent,
                TELEMETRY_WINDOWS_PER_BATCH_MAX,
                TELEMETRY_BATCH_BYTES_MAX,
                newer_than=0 if now >= history.due_at else history.upto or 0,
            )
            windows = handed_out.windows
            if not windows:
                break
            stream.sent_ever = max(stream.sent_ever, self._rows.span_telemetry().last)
            if windows[0].sequence > stream.sent + 1:
                # A row was damaged after it had its sequence. Only a hello gets us past that.
                self._ask(now)
                break
            if not handed_out.again:
                self._pace_history(handed_out.oldest, now)
            batch = TelemetryBatch(
                device=self._device,
                epoch=self._epoch,
                first=windows[0].sequence,
                windows=windows,
            )
            outgoing.append(self._sealed(Channel.TELEMETRY, PayloadType.TELEMETRY_BATCH, batch))
            stream.note_sent(windows[-1].sequence)
        return outgoing

    def _pace_history(self, oldest: int, now: float) -> None:
        """A batch that reaches back to the number ``oldest`` was handed out."""
        history = self._history
        if history.upto is None:
            history.upto = self._rows.held_telemetry().newest
            history.due_at = now + HISTORY_BEGINS_SECONDS_MAX * self._rng.random()
        elif oldest <= history.upto:
            history.due_at = now + HISTORY_SECONDS * (0.5 + self._rng.random())

    def _sealed(self, channel: Channel, payload_type: str, payload: WireModel) -> Outgoing:
        return Outgoing(channel, self._seal(payload_type, encode(payload)))


def _length(span: Span) -> int:
    return max(0, span.last - span.first + 1)
