"""Real processes of the demo: started with a log file each, killed and started again."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

STOP_SECONDS_MAX = 10.0
_LOG_TAIL_BYTES = 2000


@dataclass
class Process:
    """A command that can be started any number of times; its log grows in one file."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    _child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self.running:
            raise RuntimeError(f"{self.name} runs already; nobody would stop the first one")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                # Ctrl-C reaches the demo alone; it stops its processes in order.
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def kill(self) -> None:
        """``kill -9``: no goodbye, nothing flushed."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def ask_to_stop(self) -> None:
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Ask, wait, and end it if it does not listen; safe to repeat."""
        if self._child is None:
            return
        self.ask_to_stop()
        try:
            self._child.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child = None

    def log_tail(self) -> str:
        try:
            return self.log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
        except OSError:
            return ""


def program(name: str) -> str:
    """A command installed beside this Python, as in a virtual environment."""
    return str(Path(sys.executable).with_name(name))
