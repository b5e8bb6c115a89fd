"""Single keys from a terminal, without waiting for the end of a line."""

import os
import select
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ESCAPE_SECONDS = 0.05  # the rest of an arrow key comes at once; a lone escape key has none
_NAMED = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1b": "back",
    b"\x7f": "back",
    b"\r": "enter",
    b"\n": "enter",
    b"k": "up",
    b"j": "down",
    b"q": "quit",
    b"\x04": "quit",
}

NextKey = Callable[[float], str | None]


@contextmanager
def keys() -> Iterator[NextKey]:
    """Waits so many seconds for a key: up, down, enter, back, quit; None for every other and none.

    The terminal is as it was afterwards, however this ends. Ctrl-C stays Ctrl-C.
    """
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield lambda seconds: _next(descriptor, seconds)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _next(descriptor: int, seconds: float) -> str | None:
    if not _readable(descriptor, seconds):
        return None
    said = os.read(descriptor, 1)
    if not said:
        return "quit"  # the terminal is gone
    while said.startswith(b"\x1b") and len(said) < 3 and _readable(descriptor, ESCAPE_SECONDS):
        said += os.read(descriptor, 1)
    return _NAMED.get(said)


def _readable(descriptor: int, seconds: float) -> bool:
    ready, _, _ = select.select([descriptor], [], [], seconds)
    return bool(ready)
