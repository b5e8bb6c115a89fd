"""A device's half of the outbox protocol: the production `Outbox` over rows in memory."""

import random
from typing import TYPE_CHECKING, cast

from mailboat_agent.journal.outbox import HELLO_AFTER_SECONDS, Outbox
from mailboat_controller.simulate.rows import Rows
from mailboat_schemas.codec import decode
from mailboat_schemas.events import Event
from mailboat_schemas.reports import Ack

if TYPE_CHECKING:
    from mailboat_agent.journal.event_journal import Journal
    from mailboat_controller.simulate.device import SimulatedDevice

LOOKS_SECONDS_MAX = 60.0  # from one look to the next while anything waits


def _unsealed(payload_type: str, payload: bytes) -> bytes:
    del payload_type
    return payload


class Post:
    """Asks the outbox when something was told, when an ack came, and when it may have lost
    patience; the agent itself asks every second."""

    __slots__ = ("_asked_at", "_device", "_outbox", "_rng", "_waits_seconds", "rows")

    def __init__(self, device: "SimulatedDevice", rng: random.Random) -> None:
        self._device = device
        self._rng = rng
        self.rows = Rows(device.device)
        self._outbox: Outbox | None = None
        self._asked_at = 0.0  # of the newest look that was asked for
        self._waits_seconds = HELLO_AFTER_SECONDS

    def forget(self) -> None:
        """The process is gone, or the link; the rows stay."""
        self._outbox = None

    def tell(self, event: Event) -> None:
        if self.rows.record_event(event):
            device = self._device
            device.around.watch.told(device.device, device.hardware_class, event, self.rows.epoch)
            if device.online:
                self.pump()

    def connected(self) -> None:
        if self.rows.waiting or self._device.around.timing.hello_when_idle:
            self._open()
            self.pump()

    def hear(self, payload: bytes) -> None:
        if self._outbox is None:
            return
        self._outbox.on_ack(decode(Ack, payload), self._device.around.agenda.now)
        self._waits_seconds = HELLO_AFTER_SECONDS
        if not self.rows.waiting and not self._device.around.timing.hello_when_idle:
            self._outbox = None  # nothing to tell: a fleet of these is large
            return
        self.pump()

    def heard(self) -> None:
        """The centre said something to all."""
        if self._outbox is not None:
            self._outbox.on_heard(self._device.around.agenda.now)

    def pump(self) -> None:
        """Send what is due, and come again while anything waits for its answer."""
        device = self._device
        if device.muted:
            return
        outbox = self._outbox or self._open()
        agenda = device.around.agenda
        outgoing = outbox.due(agenda.now)
        for each in outgoing:
            device.around.network.up(device, each.channel, each.payload)
        if outgoing or self.rows.waiting:
            self._ask_again()

    def _open(self) -> Outbox:
        self._outbox = Outbox(self._device.device, cast("Journal", self.rows), _unsealed, self._rng)
        self._waits_seconds = HELLO_AFTER_SECONDS
        self._outbox.on_connected(self._device.around.agenda.now)
        return self._outbox

    def _ask_again(self) -> None:
        agenda = self._device.around.agenda
        if self._asked_at > agenda.now:
            return
        self._asked_at = agenda.now + self._waits_seconds
        self._device.later(self._waits_seconds, self._again)
        self._waits_seconds = min(2 * self._waits_seconds, LOOKS_SECONDS_MAX)

    def _again(self) -> None:
        self._asked_at = 0.0
        if self._device.online and self._outbox is not None:
            self.pump()
