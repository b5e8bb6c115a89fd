"""Acknowledgements to devices, held back a moment while more of what they say is waiting.

A watermark says all that the one before it said, so of several to one outbox the last is enough.
Under load each costs a signature and a packet, for nothing.
"""

from collections.abc import Iterable

from mailboat_schemas.reports import Ack

HELD_SECONDS_MAX = 0.5  # an agent asks after three seconds without one
HELD_ACKS_MAX = 5000


class HeldAcks:
    """The newest for each outbox. Pure but for what it holds."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], Ack] = {}  # by topic and epoch
        self._since = 0.0

    def add(self, acks: Iterable[tuple[str, Ack]], at: float) -> None:
        """
        Args:
            at: seconds on any clock that only goes forwards; here and below.
        """
        if not self._held:
            self._since = at
        for topic, ack in acks:
            before = self._held.get((topic, ack.epoch))
            # What came behind a gap was dropped, whatever came later.
            again = before is not None and before.rewind and not ack.rewind
            self._held[topic, ack.epoch] = ack.model_copy(update={"rewind": True}) if again else ack

    def due(self, at: float, *, more_waits: bool) -> list[tuple[str, Ack]]:
        """Topics and acknowledgements to be sent now, none of them held any longer.

        Args:
            more_waits: further messages are about to be taken in.
        """
        full = len(self._held) >= HELD_ACKS_MAX
        if more_waits and not full and at - self._since < HELD_SECONDS_MAX:
            return []
        due = [(topic, ack) for (topic, _), ack in self._held.items()]
        self._held.clear()
        return due
