"""What the agent owes to whoever supervises it: a word when it is up, a heartbeat, a timely end."""

import asyncio
import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable

# Between two decisions. The first waits for a worker to tell what the runtime can do, which takes
# up to two minutes on the slowest card; what else takes long runs in the background.
BEAT_SECONDS_MAX = 180.0
EXIT_SECONDS_MAX = 9.0  # from the signal to the end of the process, whatever hangs
_log = logging.getLogger(__name__)


def notify_supervisor(message: str) -> None:
    """Tell systemd, if it started us. Source: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        target = "\0" + address[1:] if address.startswith("@") else address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(message.encode(), target)


class Watchdog:
    """Tells systemd that the agent lives, for as long as it can be proved.

    The event loop turns, or `run` would not; whoever decides calls `beat` each time round; and
    ``stuck`` names models whose serving thread does not move. When one of them fails the word is
    withheld, and systemd starts the agent again. Source: sd_watchdog_enabled(3).
    """

    def __init__(self, stuck: Callable[[float], tuple[str, ...]]) -> None:
        self._stuck = stuck
        self._beaten = time.monotonic()

    def beat(self) -> None:
        self._beaten = time.monotonic()

    async def run(self) -> None:
        """Speak twice within what systemd allows; for ever, or not at all without a watchdog."""
        limit_us = int(os.environ.get("WATCHDOG_USEC") or 0)
        while limit_us:
            if problem := self.problem(time.monotonic()):
                _log.error("The watchdog is not fed: %s.", problem)
            else:
                notify_supervisor("WATCHDOG=1")
            await asyncio.sleep(limit_us / 2_000_000)

    def problem(self, now: float) -> str | None:
        """What does not move; ``now`` is monotonic."""
        silence = now - self._beaten
        if silence > BEAT_SECONDS_MAX:
            return f"nothing was decided for {silence:.0f} s"
        if models := self._stuck(now):
            return f"the threads that serve {', '.join(models)} do not move"
        return None


def exit_at_last() -> None:
    """However long a thread hangs in the resolver or in a driver: the record is durable at every
    moment, and a supervisor that has to kill tells nobody why."""
    timer = threading.Timer(EXIT_SECONDS_MAX, os._exit, (0,))
    timer.daemon = True
    timer.start()
