"""A command of ours on a real terminal: what it draws, and keys pressed on it."""

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 120.0
_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>]")


@dataclass
class Terminal:
    """``drawn`` is everything that came, with its escape sequences."""

    process: "subprocess.Popen[bytes]"
    master: int
    slave: int
    drawn: str = ""

    @property
    def text(self) -> str:
        """What was drawn, without escape sequences."""
        return _SEQUENCE.sub("", self.drawn)

    def until(self, text: str) -> None:
        """Wait until that was drawn."""
        self.until_again(text, times=1)

    def until_again(self, text: str, *, times: int) -> None:
        ends_at = time.monotonic() + PATIENCE_SECONDS
        while self.text.count(text) < times:
            assert time.monotonic() < ends_at, f"{text!r} was not drawn:\n{self.text[-3000:]}"
            if not self._read(0.2):
                assert self.process.poll() is None, f"it ended:\n{self.text[-3000:]}"

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def end(self) -> int:
        """Its exit code, once it has ended by itself; whatever it drew last is read."""
        ends_at = time.monotonic() + PATIENCE_SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < ends_at, f"it goes on:\n{self.text[-3000:]}"
            self._read(0.2)
        while self._read(0.1):
            pass
        return self.process.returncode

    def settings(self) -> list[Any]:
        """Of the terminal, as termios has them."""
        return termios.tcgetattr(self.slave)

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self.master], [], [], seconds)
        if not ready:
            return False
        with contextlib.suppress(OSError):  # Linux says so when nobody has it open any more
            self.drawn += os.read(self.master, 65536).decode(errors="replace")
            return True
        return False


@contextlib.contextmanager
def on_terminal(
    words: Sequence[str | Path],
    environment: Mapping[str, str],
    *,
    columns: int = 120,
    lines: int = 40,
    program: Sequence[str | Path] = (),
) -> Iterator[Terminal]:
    """``mailboat`` (or another program) with a terminal as input, output and errors."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    command = program or [Path(sys.executable).with_name("mailboat")]
    left_out = ("NO_COLOR", "COLUMNS")
    held = {name: value for name, value in os.environ.items() if name not in left_out}
    process = subprocess.Popen(
        # Of its own session, with this as its terminal: so that Ctrl-C on it is a signal.
        ["setsid", "--ctty", *command, *words],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**held, "TERM": "xterm-256color", **environment},
    )
    try:
        yield Terminal(process, master, slave)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(master)
        os.close(slave)
