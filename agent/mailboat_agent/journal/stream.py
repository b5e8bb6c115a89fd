"""Where one stream of the outbox stands: sent, on its way, arrived. Pure."""

from dataclasses import dataclass, field

from mailboat_schemas.reports import Span

REWIND_AGAIN_AFTER_SECONDS = 1.0  # one gap makes the controller ask once for each batch behind it


@dataclass(slots=True)
class Stream:
    """Where one stream stands: acknowledged ≤ sent ≤ last row."""

    acked: int
    sent: int
    sent_ever: int  # an ack beyond it was not earned by anything this outbox said
    in_flight: list[int] = field(default_factory=list)  # last sequence of each batch
    rewound_at: float | None = None
    # When to ask what became of what is in flight. Each stream has its own: telemetry that moves
    # says nothing about an event batch that the broker forgot.
    patience_until: float = 0.0

    @classmethod
    def of(cls, span: Span) -> "Stream":
        # An earlier life of this process may have sent any row that is here.
        return cls(acked=span.first - 1, sent=span.first - 1, sent_ever=span.last)

    def is_beyond(self, acked: int) -> bool:
        """Whether the controller has what was never given here."""
        return acked > self.sent_ever

    def is_overdue(self, now: float) -> bool:
        """Whether it is time to ask what became of what is in flight."""
        return bool(self.in_flight) and now >= self.patience_until

    def take_ack(self, acked: int) -> bool:
        """Whether it moved. Acks only ever move forward."""
        if not self.acked < acked <= self.sent_ever:
            return False
        self.acked = acked
        self.sent = max(self.sent, acked)
        self.in_flight = [last for last in self.in_flight if last > acked]
        self.rewound_at = None
        return True

    def rewind(self) -> None:
        self.sent = self.acked
        self.in_flight = []

    def rewind_unless_just_done(self, now: float) -> None:
        recently = self.rewound_at is not None and (
            now - self.rewound_at < REWIND_AGAIN_AFTER_SECONDS
        )
        if not recently:
            self.rewind()
            self.rewound_at = now

    def note_sent(self, last: int) -> None:
        self.sent = last
        self.sent_ever = max(self.sent_ever, last)
        self.in_flight.append(last)
