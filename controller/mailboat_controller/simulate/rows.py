"""A device's journal in memory: of state events what `journal.event_journal` keeps, no telemetry.

It counts as durable: a power cut leaves it as it is, and `lose` is what a rotten disk does.
"""

from mailboat_agent.journal.telemetry_buffer import HandedOut, Held
from mailboat_schemas.events import Event
from mailboat_schemas.reports import Span

_NO_TELEMETRY = _NOTHING_TOLD = Span(first=1, last=0)
_NO_WINDOWS = HandedOut()
_NOTHING_HELD = Held(levels=(), merged=0, dropped=0, newest=0)


class Rows:
    """Sequences are 1, 2, 3 … within an epoch; those up to ``acked`` are gone, their ids known."""

    __slots__ = ("_span", "acked", "device", "epoch", "epochs", "given", "ids", "waiting")

    def __init__(self, device: str) -> None:
        self.device = device
        self.epochs = 0
        self.lose()

    def lose(self) -> None:
        """A new journal with nothing in it."""
        self.epochs += 1
        self.epoch = f"{self.epochs:016x}"
        self.given = self.acked = 0
        self._span = _NOTHING_TOLD
        self.ids: set[str] = set()
        self.waiting: dict[int, Event] = {}

    def record_event(self, event: Event) -> bool:
        """Whether it is new."""
        if event.event_id in self.ids:
            return False
        self.given += 1
        self.ids.add(event.event_id)
        self.waiting[self.given] = event.model_copy(update={"sequence": self.given})
        return True

    # --- what the outbox asks ---------------------------------------------------------------------

    def span_events(self) -> Span:
        span = self._span
        if span.last != self.given or span.first != self.acked + 1:
            span = self._span = Span.model_construct(first=self.acked + 1, last=self.given)
        return span

    def events_after(self, sequence: int, limit: int, bytes_max: int) -> list[Event]:
        del bytes_max  # a batch of these is far below it
        first = max(sequence, self.acked) + 1
        last = min(self.given, first + limit - 1)
        return [self.waiting[number] for number in range(first, last + 1)]

    def acknowledge(self, events: int, telemetry: int) -> None:
        del telemetry
        upto = min(events, self.given)
        for number in range(self.acked + 1, upto + 1):
            del self.waiting[number]
        self.acked = max(self.acked, upto)

    def begin_epoch_anew(self) -> None:
        events = [self.waiting[number] for number in range(self.acked + 1, self.given + 1)]
        known = self.ids
        self.lose()
        self.ids = known - {event.event_id for event in events}
        for event in events:
            self.record_event(event)

    def span_telemetry(self) -> Span:
        return _NO_TELEMETRY

    def windows_to_send(
        self, after: int, limit: int, bytes_max: int, *, newer_than: int = 0
    ) -> HandedOut:
        del after, limit, bytes_max, newer_than
        return _NO_WINDOWS

    def held_telemetry(self) -> Held:
        return _NOTHING_HELD
