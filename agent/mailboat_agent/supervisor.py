"""What the agent owes to whoever supervises it: a word when it is up, a heartbeat, a timely end."""

import asyncio
import contextlib
import os
import socket
import threading

EXIT_SECONDS_MAX = 9.0  # from the signal to the end of the process, whatever hangs


def notify_supervisor(message: str) -> None:
    """Tell systemd, if it started us. Source: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        target = "\0" + address[1:] if address.startswith("@") else address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(message.encode(), target)


async def keep_the_watchdog_quiet() -> None:
    """Half of what systemd allows, for as long as the event loop turns."""
    limit_us = int(os.environ.get("WATCHDOG_USEC") or 0)
    while limit_us:
        notify_supervisor("WATCHDOG=1")
        await asyncio.sleep(limit_us / 2_000_000)


def exit_at_last() -> None:
    """However long a thread hangs in the resolver or in a driver: the record is durable at every
    moment, and a supervisor that has to kill tells nobody why."""
    timer = threading.Timer(EXIT_SECONDS_MAX, os._exit, (0,))
    timer.daemon = True
    timer.start()
