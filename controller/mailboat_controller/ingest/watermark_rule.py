"""One device's two streams within a batch of messages: what is new, what is missing, what to ack.

A row is stored only when everything before it is. What the device itself no longer holds is passed
over, never silently: the audit log says which rows were lost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

from mailboat_controller.store import audit
from mailboat_controller.store.devices import DeviceRow
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.store.watermarks import Watermark
from mailboat_schemas.errors import MalformedPayload, NotPermitted
from mailboat_schemas.reports import Ack, Hello, Span
from mailboat_schemas.topics import Channel, build

# Each loss is an entry in the audit log, which is never thinned, and a hello costs nothing to send.
LOSSES_PER_DAY_MAX = 100
DAY = timedelta(days=1)
SEQUENCE_MAX = (1 << 63) - 1  # what the database can hold
EPOCH_NEW_ACTION = "device.new_epoch"
ROWS_LOST_ACTION = "device.rows_lost"
_ACTOR = "controller"


class _Numbered(Protocol):
    @property
    def sequence(self) -> int: ...


Row = TypeVar("Row", bound=_Numbered)


@dataclass(slots=True)
class DeviceStreams:
    """A device in this batch; ``marks`` are by epoch and are written back once, at the end."""

    row: DeviceRow
    marks: dict[str, Watermark]
    touched: set[str] = field(default_factory=set)
    rewind: set[str] = field(default_factory=set)
    to_ack: set[str] = field(default_factory=set)
    seen: bool = False
    # What is stored, by epoch and sequence, as it was when first asked for in this batch.
    stored: dict[str, dict[int, tuple[str, int]]] = field(default_factory=dict)

    def copy(self) -> "DeviceStreams":
        return (
            DeviceStreams(  # for each message, so not by `replace`, which takes five times as long
                self.row,
                dict(self.marks),
                set(self.touched),
                set(self.rewind),
                set(self.to_ack),
                self.seen,
                self.stored,
            )
        )

    def reached(self, epoch: str) -> Watermark:
        """The watermark of an epoch, which may be one never heard of; changes nothing."""
        return self.marks.get(epoch, Watermark())

    def misses_rows(self, hello: Hello) -> bool:
        """Whether the outbox begins beyond what we have, or anew."""
        mark = self.marks.get(hello.epoch)
        if mark is None:
            return bool(self.marks) or hello.events.first > 1 or hello.telemetry.first > 1
        return hello.events.first > mark.events + 1 or hello.telemetry.first > mark.telemetry + 1

    def mark(self, tx: Transaction, epoch: str, now: datetime) -> Watermark:
        """The watermark of an epoch; a new epoch is written down at once."""
        known = self.marks.get(epoch)
        if known is not None:
            return known
        if self.marks:
            self._note_loss(
                tx,
                now,
                EPOCH_NEW_ACTION,
                "the device began a new outbox; what the old one still held is lost",
                {"epoch": epoch},
            )
        newest = max((mark.number for mark in self.marks.values()), default=0)
        self.advance(epoch, Watermark(number=newest + 1))
        return self.marks[epoch]

    def advance(self, epoch: str, mark: Watermark) -> None:
        self.marks[epoch] = mark
        self.touched.add(epoch)

    def unstored(
        self, epoch: str, rows: Sequence[Row], first: int, reached: int
    ) -> tuple[Row, ...]:
        """The rows after the watermark; none, and a rewind, when there is a gap before them.

        Raises:
            MalformedPayload: the rows are not numbered on from ``first``.
        """
        for offset, row in enumerate(rows):
            if row.sequence != first + offset:
                raise MalformedPayload(
                    f"A batch that begins at {first} has row {row.sequence} at place {offset}.",
                    next_step="look at the version of the agent.",
                )
        if first > reached + 1:
            self.rewind.add(epoch)
            return ()
        return tuple(row for row in rows if row.sequence > reached)

    def pass_over_lost(self, tx: Transaction, hello: Hello, mark: Watermark, now: datetime) -> None:
        """Go on from where the device's outbox begins, when we miss rows it no longer holds.

        Waiting for them would block the stream for ever.
        """
        spans = {"events": hello.events, "telemetry": hello.telemetry}
        reached = {
            stream: self._reached(tx, hello.epoch, stream, span, getattr(mark, stream), now)
            for stream, span in spans.items()
        }
        if (reached["events"], reached["telemetry"]) != (mark.events, mark.telemetry):
            self.advance(hello.epoch, replace(mark, **reached))

    def ack(self, fleet: str, epoch: str, manifest_counter: int) -> tuple[str, Ack]:
        """Topic and payload. ``manifest_counter``: of the device's class."""
        mark = self.marks[epoch]
        topic = build(Channel.ACK, fleet=fleet, site=self.row.site, device=self.row.device)
        return topic, Ack(
            device=self.row.device,
            manifest_counter=manifest_counter,
            epoch=epoch,
            events_acked=mark.events,
            telemetry_acked=mark.telemetry,
            rewind=epoch in self.rewind,
        )

    def _reached(
        self,
        tx: Transaction,
        epoch: str,
        stream: str,
        span: Span,
        reached: int,
        now: datetime,
    ) -> int:
        if span.first <= reached + 1:
            return reached
        if span.first > SEQUENCE_MAX:
            raise MalformedPayload(
                f"A hello says that its {stream} begin at {span.first}.",
                next_step="look at the version of the agent.",
            )
        self._note_loss(
            tx,
            now,
            ROWS_LOST_ACTION,
            f"the device's outbox no longer holds {stream} {reached + 1} to {span.first - 1}, "
            "and neither do we",
            {"epoch": epoch, "stream": stream, "from": reached + 1, "to": span.first - 1},
        )
        return span.first - 1

    def _note_loss(
        self, tx: Transaction, now: datetime, action: str, reason: str, details: Mapping[str, Any]
    ) -> None:
        """
        Raises:
            NotPermitted: the device lost something too often; its streams wait until tomorrow.
        """
        device = self.row.device
        if audit.count_since(tx, device, actor=_ACTOR, since=now - DAY) >= LOSSES_PER_DAY_MAX:
            raise NotPermitted(
                f"Device {device} has lost its outbox or a part of it {LOSSES_PER_DAY_MAX} times "
                "within a day.",
                next_step="look at its disk, or revoke it: its events are taken again tomorrow.",
            )
        audit.append(
            tx, at=now, actor=_ACTOR, action=action, subject=device, reason=reason, details=details
        )
