"""Messages between the network thread and the loop: bounded, and handed over in batches."""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from mailboat_controller.mqtt.incoming import Incoming

BATCH_MESSAGES_MAX = 500
# Packed, a batch of a hundred events has two to ten kilobytes: some thousands of rows are one
# transaction of a few tenths of a second, and other writers wait for it.
BATCH_BYTES_MAX = 256 << 10
LINGER_SECONDS = 0.005
# mosquitto 2.0.11 overruns the receive maximum; above this we stop reading the socket.
INBOX_MESSAGES_MAX = 20_000
INBOX_BYTES_MAX = 64 << 20  # of payloads; devices that were away send large ones
_FULL_LOOK_SECONDS = 0.5  # how often a blocked network thread looks whether its connection ended


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message and what is needed to acknowledge it."""

    message: Incoming
    connection: object  # which connection brought it; acknowledging on another is a mistake
    mid: int
    qos: int


class Inbox:
    """Between the network thread and the loop: bounded, handed over in batches."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Delivery] = deque()
        self._waiting_bytes = 0
        self._room = threading.Condition()
        self._arrived = asyncio.Event()
        self._told = False

    def put(self, delivery: Delivery, alive: Callable[[], bool]) -> None:
        """Called by the network thread; blocks while the inbox is full."""
        with self._room:
            while (
                len(self._waiting) >= INBOX_MESSAGES_MAX or self._waiting_bytes >= INBOX_BYTES_MAX
            ):
                if not alive():
                    return
                self._room.wait(_FULL_LOOK_SECONDS)
            self._waiting.append(delivery)
            self._waiting_bytes += len(delivery.message.payload)
            told, self._told = self._told, True
        if not told:
            # The loop may be closing; the broker keeps what nobody acknowledges.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._arrived.set)

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    def clear(self) -> None:
        """Forget what a lost connection brought; the broker sends it again."""
        with self._room:
            self._waiting.clear()
            self._waiting_bytes = 0
            self._room.notify_all()

    async def batch(self) -> list[Delivery]:
        """At least one delivery: a full batch, or what came within the linger time."""
        while True:
            await self._arrived.wait()
            if len(self._waiting) < BATCH_MESSAGES_MAX:
                await asyncio.sleep(LINGER_SECONDS)
            with self._room:
                taken = self._taken()
                if not self._waiting:
                    self._told = False
                    self._arrived.clear()
                self._room.notify_all()
            if taken:
                return taken

    def _taken(self) -> list[Delivery]:
        """A full batch of what waits, by messages or by bytes; one message if any."""
        taken: list[Delivery] = []
        size_bytes = 0
        while self._waiting and len(taken) < BATCH_MESSAGES_MAX and size_bytes < BATCH_BYTES_MAX:
            taken.append(self._waiting.popleft())
            size_bytes += len(taken[-1].message.payload)
        self._waiting_bytes -= size_bytes
        return taken
