"""The controller's side of every device: what was told, and up to where. In memory, and durable.

The watermark rule and the fold of outcomes are the production ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast

from mailboat_controller.ingest.watermark_rule import ROWS_LOST_ACTION, DeviceStreams
from mailboat_controller.rollout.members import Outcome, stronger
from mailboat_controller.simulate.releases import NO_SITE
from mailboat_controller.store.devices import DeviceRow
from mailboat_controller.store.outcomes import OUTCOME_OF
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.store.watermarks import Watermark
from mailboat_schemas.codec import decode
from mailboat_schemas.events import Event, EventBatch
from mailboat_schemas.reports import Ack, Hello

FLEET = "simulated"
_NO_TRANSACTION = cast("Transaction", None)  # only an audit entry would need one


@dataclass(slots=True)
class Enrolled:
    """``site`` and ``device`` are what `DeviceStreams` asks of a row."""

    device: str
    hardware_class: str
    enrolment_number: int
    labels: Mapping[str, str]
    site: str = NO_SITE
    marks: dict[str, Watermark] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)  # ids of all events that are stored
    losses: int = 0
    heard_at: float = 0.0


class _Streams(DeviceStreams):
    """Rows lost for good are counted, where the production rule writes to the audit log."""

    rows_lost = 0

    def _note_loss(
        self, tx: Transaction, now: datetime, action: str, reason: str, details: Mapping[str, Any]
    ) -> None:
        del tx, now, reason, details
        self.rows_lost += action == ROWS_LOST_ACTION


@dataclass(frozen=True, slots=True)
class Reached:
    """What a message leads to; nothing of it holds before `Registry.commit`."""

    entry: Enrolled
    marks: dict[str, Watermark]
    fresh: tuple[Event, ...]
    ack: Ack
    losses: int


@dataclass(slots=True, kw_only=True)
class FoldedOutcome:
    outcome: Outcome
    code: str
    because: str
    exposed_at: float | None  # seconds since 1970 by the controller's clock


class Registry:
    def __init__(self) -> None:
        self.devices: dict[str, Enrolled] = {}
        # By release and retry epoch, then device.
        self.outcomes: dict[tuple[str, int], dict[str, FoldedOutcome]] = {}
        # Likewise, when the device began to fetch it: milliseconds since 1970.
        self.redeemed: dict[tuple[str, int], dict[str, int]] = {}

    def redeem(self, device: str, digest: str, retry_epoch: int, now: float) -> bool:
        """As `store.redemptions`: the first time counts. Says whether this is the first."""
        held = self.redeemed.setdefault((digest, retry_epoch), {})
        if device in held:
            return False
        held[device] = int(now * 1000)
        return True

    def redeemed_of(self, digest: str, *, since_epoch: int) -> dict[str, int]:
        """By device, when it began to fetch the release in this retry epoch or a later one."""
        found: dict[str, int] = {}
        for (of, epoch), by_device in sorted(self.redeemed.items()):
            if of == digest and epoch >= since_epoch:
                found = by_device | found
        return found

    def outcomes_of(self, digest: str, *, since_epoch: int) -> dict[str, FoldedOutcome]:
        """Of this retry epoch; and earlier good ones, as nobody tries again what he runs."""
        found: dict[str, FoldedOutcome] = {}
        for (of, epoch), by_device in self.outcomes.items():
            if of != digest:
                continue
            if epoch >= since_epoch:
                found |= by_device
            else:
                good = {name: one for name, one in by_device.items() if one.outcome is Outcome.OK}
                found = good | found
        return found

    def enrol(self, entry: Enrolled) -> None:
        self.devices[entry.device] = entry

    def take_events(self, device: str, payload: bytes, counter: int, now: float) -> Reached:
        """As `batch.py` takes a batch of events."""
        entry = self.devices[device]
        batch = decode(EventBatch, payload)
        streams = self._streams(entry)
        reached = streams.reached(batch.epoch).events
        fresh = streams.unstored(batch.epoch, batch.events, batch.first, reached)
        mark = streams.mark(_NO_TRANSACTION, batch.epoch, _utc(now))
        if fresh:
            streams.advance(batch.epoch, replace(mark, events=fresh[-1].sequence))
        stored = tuple(event for event in fresh if event.event_id not in entry.told)
        return self._reached(entry, streams, batch.epoch, stored, counter)

    def take_hello(self, device: str, payload: bytes, counter: int, now: float) -> Reached:
        entry = self.devices[device]
        hello = decode(Hello, payload)
        streams = self._streams(entry)
        mark = streams.mark(_NO_TRANSACTION, hello.epoch, _utc(now))
        streams.pass_over_lost(_NO_TRANSACTION, hello, mark, _utc(now))
        return self._reached(entry, streams, hello.epoch, (), counter)

    def commit(self, reached: Reached, now: float) -> list[Event]:
        """All of it; says which events changed an outcome."""
        entry = reached.entry
        entry.marks = reached.marks
        entry.losses = reached.losses
        entry.heard_at = now
        return [event for event in reached.fresh if self._store(entry, event, now)]

    def _store(self, entry: Enrolled, event: Event, now: float) -> bool:
        entry.told.add(event.event_id)
        told = OUTCOME_OF.get(event.kind)
        if told is None or event.digest is None:
            return False
        held = self.outcomes.setdefault((event.digest, event.retry_epoch), {})
        known = held.get(entry.device)
        exposed_at = None if told is Outcome.REFUSED else now
        if known is None:
            held[entry.device] = FoldedOutcome(
                outcome=told, code=event.code, because=event.because, exposed_at=exposed_at
            )
            return True
        folded = stronger(known.outcome, told)
        if folded is known.outcome:
            return False
        known.outcome, known.code, known.because = folded, event.code, event.because
        if known.exposed_at is None:
            known.exposed_at = exposed_at
        return True

    def _streams(self, entry: Enrolled) -> _Streams:
        return _Streams(row=cast("DeviceRow", entry), marks=dict(entry.marks))

    def _reached(
        self,
        entry: Enrolled,
        streams: _Streams,
        epoch: str,
        fresh: tuple[Event, ...],
        counter: int,
    ) -> Reached:
        _, ack = streams.ack(FLEET, epoch, counter)
        return Reached(
            entry=entry,
            marks=streams.marks,
            fresh=fresh,
            ack=ack,
            losses=entry.losses + streams.rows_lost,
        )


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
